"""What the battery tries: a loss of the catalogue or of another library, with example inputs."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lossproof.checks.inputs import TARGET, parse_specifications
from lossproof.losses.catalogue import CatalogueEntry

Tensor = torch.Tensor


@dataclass(frozen=True)
class Subject:
    """A loss that is called with tensors and gives a scalar.

    Args:
        name: what it is called in messages.
        call: the loss; for one of the catalogue it takes the options, too.
        specification: its inputs.
        entry: the catalogue's entry, of which it is the loss or a copy.
        ours: whether it is the loss itself.
        options: what it takes beside tensors.
    """

    name: str
    call: Callable[..., Tensor]
    specification: str
    entry: CatalogueEntry
    ours: bool = True
    options: frozenset[str] = field(default_factory=frozenset)

    def draw(self, seed: int = 0, *, times: int = 1, dtype: torch.dtype | None = None) -> Call:
        """Inputs; ``times`` as many samples, floating-point ones in a dtype."""
        generator = torch.Generator().manual_seed(seed)
        arguments = parse_specifications(_resized(self.specification, times), generator)
        names = tuple(argument.name for argument in arguments)
        tensors = tuple(argument.value for argument in arguments)
        call = Call(names, tensors)
        return call if dtype is None else call.to(dtype)


def _resized(specification: str, times: int) -> str:
    return re.sub(r"\[(\d+)", lambda match: f"[{int(match[1]) * times}", specification)


@dataclass(frozen=True)
class Call:
    """The tensors of one call."""

    names: tuple[str, ...]
    tensors: tuple[Any, ...]

    @functools.cached_property
    def predicted(self) -> tuple[int, ...]:
        """The tensors that a gradient is wanted for: the first, and what is no target."""
        return tuple(
            i
            for i, (name, value) in enumerate(zip(self.names, self.tensors, strict=True))
            if isinstance(value, Tensor)
            and value.is_floating_point()
            and (i == 0 or not TARGET.match(name))
        )

    @property
    def samples(self) -> int:
        """The size of the batch."""
        return int(self.tensors[0].shape[0]) if self.tensors[0].ndim else 1

    def batched(self, i: int) -> bool:
        """Whether a tensor has one row for each sample."""
        value = self.tensors[i]
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.samples

    def to(self, dtype: torch.dtype) -> Call:
        return self.each(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def each(self, change: Callable[[Tensor], Tensor]) -> Call:
        return Call(
            self.names, tuple(change(t) if isinstance(t, Tensor) else t for t in self.tensors)
        )

    def rows(self, index: Any) -> Call:
        """Some of the samples."""
        return Call(
            self.names,
            tuple(t[index] if self.batched(i) else t for i, t in enumerate(self.tensors)),
        )

    def replaced(self, i: int, value: Tensor) -> Call:
        return Call(self.names, (*self.tensors[:i], value, *self.tensors[i + 1 :]))

    def leaves(self) -> Call:
        """Copies, of which the predicted ones require a gradient."""
        return Call(
            self.names,
            tuple(
                t.detach().clone().requires_grad_(i in self.predicted)
                if isinstance(t, Tensor)
                else t
                for i, t in enumerate(self.tensors)
            ),
        )


def kinds(subject: Subject) -> list[str]:
    """The types of the inputs in the specification: ``float``, ``int``, ``boxes``..."""
    return re.findall(r"(\w+)\s*\[", subject.specification)


def value_and_gradients(
    call: Callable[..., Tensor], given: Call, **options: Any
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradient in each predicted tensor."""
    leaves = given.leaves()
    value = call(*leaves.tensors, **options)
    wanted = [leaves.tensors[i] for i in given.predicted]
    gradients = torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
    return value.detach(), list(gradients)


def of_catalogue(entry: CatalogueEntry) -> list[Subject]:
    """The subjects of an entry: one for each of its example inputs."""
    call = _callable(entry)
    options = frozenset(_options(entry))
    return [
        Subject(entry.name, call, specification, entry, True, options)
        for specification in entry.inputs
    ]


def _callable(entry: CatalogueEntry) -> Callable[..., Tensor]:
    if entry.function is not None:
        return functools.partial(entry.function, **entry.options)
    # Made here, for no parameter can be made inside a compiled graph or a transform.
    narrow, wide = _made(entry), _made(entry).double()

    def call(*tensors: Tensor, **options: Any) -> Tensor:
        doubles = any(getattr(given, "dtype", None) == torch.float64 for given in tensors[:1])
        module = wide if doubles else narrow
        if options:
            module = _made(entry, **options).to(next(module.parameters()).dtype)
        result: Tensor = module(*tensors)
        return result

    return call


def _made(entry: CatalogueEntry, **options: Any) -> torch.nn.Module:
    """A Module that learns, always with the same parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return entry.module(**{**entry.options, **options})


def _options(entry: CatalogueEntry) -> Sequence[str]:
    if entry.function is None:
        return list(inspect.signature(entry.module).parameters)
    parameters = inspect.signature(entry.function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
