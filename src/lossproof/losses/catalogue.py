"""The catalogue: which losses there are, what is true of each, and how one is found.

A loss enters the catalogue where it is defined, by the decorator :func:`loss` (a function) or
:func:`loss_module` (a Module that learns). The decorator also brings what all losses share: half
precision is computed in float32, and the ``size_average`` and ``reduce`` of old are understood.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from lossproof.write.module import class_name
from lossproof.write.precision import any_half, autocast_of, result_dtype, widened
from lossproof.write.reduction import legacy_reduction

Tensor = torch.Tensor
P = ParamSpec("P")
Class = TypeVar("Class", bound=type[nn.Module])


@dataclass(frozen=True)
class Properties:
    """What is true of the value of one item, as a function of the prediction (the first tensor).

    Args:
        convex: it is convex in the prediction.
        bounded_gradient: its derivative in the prediction stays below some number everywhere.
        minimal_at_target: no prediction is better than the target itself; for logits, than ever
            greater confidence in it.
        coupled: it also depends on other items of the batch, so that a batch cannot be split.
    """

    convex: bool
    bounded_gradient: bool
    minimal_at_target: bool
    coupled: bool


@dataclass(frozen=True)
class CatalogueEntry:
    """One loss of the catalogue."""

    name: str
    """What the function is called; for a Module that learns, the class."""
    function: Callable[..., Tensor] | None
    """The loss as a function; a Module that learns has none."""
    module_name: str
    module_file: str
    """The module of Python that defines it."""
    inputs: tuple[str, ...]
    """Example inputs, as specifications such as ``"input float[8,10]; target int[8]<10"``."""
    properties: Properties
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options without which it cannot be called, with examples."""
    also: tuple[str, ...] = ()
    """Other words by which people look for it."""
    stops_gradient: str | None = None
    """Which part of the published loss is held constant, so that its gradient is not the
    derivative of its value."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """What other libraries do, by library."""

    @property
    def family(self) -> str:
        """The family: the name of the file."""
        return self.module_file.rpartition(".")[2]

    @property
    def module(self) -> type[nn.Module]:
        """The loss as a Module."""
        module: type[nn.Module] = getattr(sys.modules[self.module_file], self.module_name)
        return module

    @property
    def doc(self) -> str:
        """The docstring."""
        return inspect.getdoc(self.function or self.module) or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]


_ENTRIES: dict[str, CatalogueEntry] = {}


def loss(
    *,
    inputs: str | Iterable[str],
    convex: bool,
    bounded_gradient: bool,
    minimal_at_target: bool,
    coupled: bool,
    module: str | None = None,
    options: Mapping[str, Any] | None = None,
    also: Iterable[str] = (),
    stops_gradient: str | None = None,
    peers: Mapping[str, str] | None = None,
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Enter a loss function into the catalogue.

    Args:
        inputs: one or several specifications of example inputs.
        convex: see :class:`Properties`, as for the next three.
        bounded_gradient: the same.
        minimal_at_target: the same.
        coupled: the same.
        module: what the Module is called, where it is not the function's name in capitals.
        options: options without which it cannot be called, with examples.
        also: other words by which people look for it.
        stops_gradient: which part is held constant, where the published loss does that.
        peers: what other libraries do, by library.
    """

    def enter(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        whole = _with_common_behaviour(function)
        _ENTRIES[function.__name__] = CatalogueEntry(
            name=function.__name__,
            function=whole,
            module_name=module or class_name(function),
            module_file=function.__module__,
            properties=Properties(convex, bounded_gradient, minimal_at_target, coupled),
            **_facts(inputs, options, also, stops_gradient, peers),
        )
        return whole

    return enter


def loss_module(
    *,
    inputs: str | Iterable[str],
    options: Mapping[str, Any],
    convex: bool,
    bounded_gradient: bool,
    minimal_at_target: bool,
    coupled: bool,
    also: Iterable[str] = (),
    stops_gradient: str | None = None,
    peers: Mapping[str, str] | None = None,
) -> Callable[[Class], Class]:
    """Enter a Module that has parameters of its own; the arguments are those of :func:`loss`."""

    def enter(cls: Class) -> Class:
        cls.forward = _with_common_behaviour(cls.forward)
        _ENTRIES[cls.__name__] = CatalogueEntry(
            name=cls.__name__,
            function=None,
            module_name=cls.__name__,
            module_file=cls.__module__,
            properties=Properties(convex, bounded_gradient, minimal_at_target, coupled),
            **_facts(inputs, options, also, stops_gradient, peers),
        )
        return cls

    return enter


def _facts(
    inputs: str | Iterable[str],
    options: Mapping[str, Any] | None,
    also: Iterable[str],
    stops_gradient: str | None,
    peers: Mapping[str, str] | None,
) -> dict[str, Any]:
    """What both decorators are told, as an entry holds it."""
    return {
        "inputs": (inputs,) if isinstance(inputs, str) else tuple(inputs),
        "options": options or {},
        "also": tuple(also),
        "stops_gradient": stops_gradient,
        "peers": peers or {},
    }


def _with_common_behaviour(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function, in float32 where it is called with half precision or under autocast."""
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(function)
    def loss(*args: P.args, **options: P.kwargs) -> Tensor:
        if "size_average" in options or "reduce" in options:
            return loss(*args, **legacy_reduction(options, stacklevel=3))
        tensors = (*args, *(options[name] for name in named if name in options))
        autocast = autocast_of(tensors)
        if autocast is None and not any_half(tensors):
            return function(*args, **options)
        wide = [widened(value) for value in args]
        wide_options = {name: widened(value) for name, value in options.items()}
        if autocast is None:
            return function(*wide, **wide_options).to(result_dtype(tensors))
        with torch.autocast(autocast, enabled=False):
            return function(*wide, **wide_options)

    return loss


@functools.lru_cache(maxsize=1)
def _load_families() -> None:
    import lossproof.losses as room

    for found in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{found.name}")


def catalogue() -> tuple[CatalogueEntry, ...]:
    """All losses, family by family."""
    _load_families()
    return tuple(sorted(_ENTRIES.values(), key=lambda entry: (entry.family, entry.name)))


def search(words: str) -> tuple[CatalogueEntry, ...]:
    """The losses whose name, family, other names or summary hold all of these words.

    Example:
        >>> from lossproof.losses.catalogue import search
        >>> [entry.name for entry in search("log cosh")]
        ['log_cosh_loss']
    """
    wanted = words.lower().replace("_", " ").replace("-", " ").split()
    found = [entry for entry in catalogue() if all(word in _text(entry) for word in wanted)]
    by_name = [e for e in found if all(w in e.name.lower() + e.module_name.lower() for w in wanted)]
    return (*by_name, *(entry for entry in found if entry not in by_name))


def named(name: str) -> CatalogueEntry | None:
    """The loss with this name: a function's or a Module's, ``_loss`` left out or not.

    Example:
        >>> from lossproof.losses.catalogue import named
        >>> named("LogCosh").name, named("log cosh").name
        ('log_cosh_loss', 'log_cosh_loss')
    """
    wanted = _bare(name)
    return next((e for e in catalogue() if wanted in {_bare(e.name), _bare(e.module_name)}), None)


def nearest(name: str) -> list[str]:
    """The names that have a word most like this one."""
    by_word: dict[str, list[str]] = {}
    for entry in catalogue():
        for word in {*entry.name.lower().split("_"), _bare(entry.name)}:
            by_word.setdefault(word, []).append(entry.name)
    near = difflib.get_close_matches(_bare(name), by_word, 3, 0.6)
    return list(dict.fromkeys(found for word in near for found in by_word[word]))[:5]


def _bare(name: str) -> str:
    """The letters of a name that tell it from others."""
    return re.sub(r"[\s_-]", "", name.lower()).removesuffix("loss")


def _text(entry: CatalogueEntry) -> str:
    words = (entry.name, entry.module_name, entry.family, entry.summary, *entry.also)
    return " ".join(words).replace("_", " ").replace("-", " ").lower()
