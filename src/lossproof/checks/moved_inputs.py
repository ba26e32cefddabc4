"""The inputs that want a gradient, ready to be moved to other values of their domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.domain import Domain, domain_of
from lossproof.checks.inputs import Inputs

Tensor = torch.Tensor
Values = tuple[Any, ...]


@dataclass(frozen=True)
class SpecialPoint:
    """Arguments for one call, and what is special about them."""

    values: Values
    words: str
    """Completes a sentence that begins with "when"."""
    parts: tuple[SpecialPoint, ...] = ()
    """Simpler points that this one gathers: where it fails, one of them may be to blame."""
    spread: float = 0.01
    """How far away, relative to the step from the given inputs, a point is still of its kind."""


@dataclass(frozen=True)
class Moved:
    """One input that wants a gradient, with what is needed to move it."""

    inputs: Inputs
    position: int
    domain: Domain

    @property
    def tensor(self) -> Tensor:
        value: Tensor = self.inputs.values[self.position]
        return value.detach()

    @property
    def name(self) -> str:
        return f"`{self.inputs.arguments[self.position].name}`"

    def to(self, tensor: Tensor) -> Values:
        """The arguments with this input at other values."""
        values = list(self.inputs.values)
        values[self.position] = tensor.to(self.tensor.dtype)
        return tuple(values)

    def point(self, tensor: Tensor, words: str) -> SpecialPoint:
        return SpecialPoint(self.to(tensor), words.format(name=self.name))

    def filled(self, value: float) -> Tensor:
        return torch.full_like(self.tensor, value)


def moved_inputs(inputs: Inputs) -> list[Moved]:
    """The inputs that special points move: those that want a gradient and hold numbers."""
    return [
        Moved(
            inputs,
            position,
            domain_of(inputs.values[position], inputs.arguments[position].name, smooth=True),
        )
        for position in inputs.differentiable
        if inputs.values[position].is_floating_point() and inputs.values[position].numel()
    ]


def all_at(inputs: Inputs, some: Sequence[Moved], make: Callable[[Moved], Tensor]) -> Values:
    """The arguments with several inputs at other values."""
    values = list(inputs.values)
    for moved in some:
        values[moved.position] = make(moved).to(moved.tensor.dtype)
    return tuple(values)


def with_value(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """A copy of a tensor that holds another value at an index."""
    changed = tensor.clone()
    changed[index] = value
    return changed


# ---------------------------------------------------------------------------- classes
def class_axis(moved: Moved) -> list[int]:
    """Where the classes of some logits lie: where the labels say, else the second axis."""
    x = moved.tensor
    if x.dim() == 0:
        return []
    for axis in dict.fromkeys((min(1, x.dim() - 1), x.dim() - 1)):
        if labels_of(moved, axis) is not None:
            return [axis]
    axis = min(1, x.dim() - 1)
    return [axis] if 1 < x.shape[axis] <= 4096 else []


def labels_of(moved: Moved, axis: int) -> tuple[str, Tensor] | None:
    """The input that holds a class index for each place of this one, if there is one."""
    shape = list(moved.tensor.shape)
    classes = shape.pop(axis)
    for argument in moved.inputs.arguments:
        other = argument.value
        if not isinstance(other, torch.Tensor) or other.is_complex() or other.dtype == torch.bool:
            continue
        if other.is_floating_point() or list(other.shape) != shape or other.numel() == 0:
            continue
        if int(other.max()) < classes:
            return f"`{argument.name}`", other.detach().clamp(min=0).long()
    return None


def classes_of(moved: Moved, axis: int) -> Iterator[tuple[str, Tensor]]:
    """Interesting choices of one class for each place."""
    shape = list(moved.tensor.shape)
    classes = shape.pop(axis)
    labels = labels_of(moved, axis)
    if labels is not None:
        name, index = labels
        yield f"the class in {name}", index
        yield f"another class than in {name}", (index + 1) % classes
    count = 1
    for size in shape:
        count *= size
    running = (torch.arange(count) % classes).reshape(shape)
    yield "a class that differs from sample to sample", running
    yield "the first class", torch.zeros_like(running)
    yield "the last class", torch.full_like(running, classes - 1)


def one_hot(moved: Moved, axis: int, index: Tensor) -> Tensor:
    """1 at one class for each place, and 0 elsewhere."""
    return torch.zeros_like(moved.tensor).scatter(axis, index.unsqueeze(axis), 1.0)
