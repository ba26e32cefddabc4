"""The words of a loss: what its code calls, what it is called, and the sizes it was made with.

What a loss wants to be given shows in what it does: who calls ``gather`` wants class indices, who
calls ``binary_cross_entropy`` wants probabilities. The names are read from compiled code, so no
source is needed, and helpers of the same package are followed.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from lossproof.checks.subject import Subject

MOST = 80
"""How many functions are read at most."""
MACHINERY = (object, nn.Module, torch.autograd.Function)

CLASSES = re.compile(
    r"^(num|n|nb|no|number)?_?(of_)?(class(es)?|labels?|categories|cls)$|^n?c$", re.I
)
FEATURES = re.compile(
    r"^(feat(ure)?s?|emb(edding)?s?|hidden|latent|in|input|model|z)_?"
    r"(dims?|size|features|channels|dimension)$|^(dim_?(feat|features|emb|in)|n_?features|d_model|"
    r"in_features)$",
    re.I,
)
SPATIAL = re.compile(r"^(spatial_?dims?|n_?dims?|dimensions?)$", re.I)


@dataclass(frozen=True)
class Words:
    """What the code of a loss says about its inputs."""

    title: str
    """The name of the loss, in lower case, without underscores."""
    calls: frozenset[str]
    """Every global and attribute that the code names, in lower case."""
    classes: int | None = None
    features: int | None = None
    spatial: int | None = None
    """How many axes an image has."""
    sizes: tuple[int, ...] = ()
    """Other small whole numbers that the loss was made with."""
    switched_on: frozenset[str] = frozenset()
    """The options that are true, such as ``log_target``."""

    def call(self, *names: str) -> bool:
        """Whether the code names one of these."""
        return not self.calls.isdisjoint(names)


def words_of(subject: Subject) -> Words:
    """Read a loss.

    Example:
        >>> from lossproof.checks.subject import subject_of
        >>> words = words_of(subject_of(nn.BCEWithLogitsLoss()))
        >>> words.title, words.call("binary_cross_entropy_with_logits")
        ('bcewithlogitsloss', True)
    """
    reader = _Reader()
    reader.read(subject.origin if subject.kind == "autograd.Function" else subject.call, 0)
    instance = getattr(subject.call, "__self__", subject.call)
    plain = inspect.isfunction(instance) or isinstance(instance, (type, functools.partial))
    numbers = {} if plain else _numbers(instance)
    title = f"{subject.name.rpartition('.')[2]}".replace("_", "").lower()
    # The name of a Function, or of a loss behind a lambda, says what the lambda's name does not.
    if not re.search(r"[a-z]{3}", title.replace("lambda", "")) or title == "loss":
        title = " ".join((title, *sorted(reader.titles)))
    classes, features = _sizes(numbers, instance)
    spatial = next((n for name, n in numbers.items() if SPATIAL.match(name)), None)
    sizes = tuple(dict.fromkeys(n for n in numbers.values() if 1 < n <= 64))
    return Words(
        title, frozenset(reader.found), classes, features, spatial, sizes, _switched_on(subject)
    )


def _switched_on(subject: Subject) -> frozenset[str]:
    target = getattr(subject.call, "__self__", subject.call)
    given = getattr(subject.origin, "keywords", {})
    parts = target.modules() if isinstance(target, nn.Module) else (target,)
    options = {name: v for part in parts for name, v in getattr(part, "__dict__", {}).items()}
    if subject.signature is not None:
        defaults = {name: p.default for name, p in subject.signature.parameters.items()}
        options = {**defaults, **options}
    return frozenset(name.lower() for name, v in {**options, **given}.items() if v is True)


class _Reader:
    """Walks from a callable through the functions of its own package."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.titles: set[str] = set()
        self.seen: set[int] = set()
        self.package: str | None = None

    def read(self, thing: Any, depth: int) -> None:
        if depth > 4 or len(self.seen) > MOST or id(thing) in self.seen:
            return
        self.seen.add(id(thing))
        if isinstance(thing, functools.partial):
            self.read(thing.func, depth)
        elif isinstance(thing, MethodType):
            self.read(thing.__func__, depth)
            self.read(thing.__self__, depth + 1)
        elif isinstance(thing, FunctionType):
            self._function(inspect.unwrap(thing), depth)
        elif isinstance(thing, type):
            self._class(thing, depth)
        elif isinstance(thing, nn.Module) or (callable(thing) and hasattr(thing, "__dict__")):
            self._class(type(thing), depth)
            for part in list(vars(thing).values()):
                if callable(part):
                    self.read(part, depth + 1)
            if isinstance(thing, nn.Module):
                for child in thing.children():
                    self.read(child, depth + 1)

    def _class(self, cls: type, depth: int) -> None:
        self.found.add(cls.__name__.lower())
        self.titles.add(cls.__name__.lower())
        self._enter(cls)
        for base in cls.__mro__:
            if base in MACHINERY or not self._own(base):
                continue
            for value in vars(base).values():
                if isinstance(value, (staticmethod, classmethod)):
                    value = value.__func__  # noqa: PLW2901 - the function within
                # A constructor names what it makes, which is read from the instance.
                if isinstance(value, FunctionType) and value.__name__ != "__init__":
                    self.read(value, depth + 1)

    def _function(self, function: Any, depth: int) -> None:
        self._enter(function)
        if not isinstance(function, FunctionType):
            return
        self.titles.add(function.__name__.replace("_", "").lower())
        for cell in function.__closure__ or ():
            try:
                self.read(cell.cell_contents, depth + 1)
            except ValueError:  # a cell that is not filled yet
                continue
        for code in _codes(function.__code__):
            for name in code.co_names:
                self.found.add(name.lower())
                value = function.__globals__.get(name)
                if isinstance(value, (FunctionType, type, nn.Module)) and self._own(value):
                    self.read(value, depth + 1)

    def _enter(self, thing: Any) -> None:
        if self.package is None:
            self.package = _package(thing)

    def _own(self, thing: Any) -> bool:
        owner = type(thing) if isinstance(thing, nn.Module) else thing
        # torch's own losses are read where they are used; the rest of torch is not.
        losses = ("torch.nn.modules.loss",)
        return _package(owner) == self.package or getattr(owner, "__module__", "") in losses


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _numbers(instance: Any) -> dict[str, int]:
    """The whole numbers among the attributes of a loss and of its parts."""
    parts = instance.modules() if isinstance(instance, nn.Module) else (instance,)
    found: dict[str, int] = {}
    for part in parts:
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                found.setdefault(name.lstrip("_"), value)
    return found


def _several_each(axis: int, other: int, classes: int | None) -> bool:
    """Whether an axis holds several vectors for each class, and the other one does not."""
    return classes is not None and axis % classes == 0 and other != classes and axis > other


def _sizes(numbers: dict[str, int], instance: Any) -> tuple[int | None, int | None]:
    """How many classes and features the loss was made for."""
    classes = next((n for name, n in numbers.items() if CLASSES.match(name)), None)
    features = next((n for name, n in numbers.items() if FEATURES.match(name)), None)
    if not isinstance(instance, nn.Module):
        return classes, features
    for _, tensor in (*instance.named_parameters(), *instance.named_buffers()):
        if tensor.dim() == 2 and (classes is None or features is None):
            rows, columns = tensor.shape
            if features == rows or classes == columns or _several_each(columns, rows, classes):
                rows, columns = columns, rows
            classes, features = classes or rows, features or columns
        elif tensor.dim() == 1 and tensor.numel() > 1 and classes is None:
            classes = tensor.numel()
    return classes, features
