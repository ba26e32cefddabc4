"""Single coordinates at special points, where a gradient is compared with one-sided derivatives.

A loss that works element by element is called on one element, so that a whole grid of special
values costs little. Any other loss is asked at the special points of its own inputs, at the
coordinates that matter most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.domain import Domain, Kind, domain_of
from lossproof.checks.examination import Examination
from lossproof.checks.inputs import Inputs
from lossproof.checks.ladders import ladders
from lossproof.checks.moved_inputs import SpecialPoint, moved_inputs
from lossproof.checks.nonfinite import is_finite
from lossproof.checks.special_points import exact_points

Tensor = torch.Tensor

GRID: tuple[float, ...] = (
    0.0, 1e-8, 1e-4, -1e-4, 0.5, -0.5, 1.0, -1.0, 1.001, -1.001, 2.0, -2.0, 3.0, -5.0, 10.0, -10.0,
    30.0, 100.0, -100.0, 1e4, -1e4,
)  # fmt: skip
UNIT_GRID: tuple[float, ...] = (0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6, 1.0)
ROW_SIZE = 40.0
"""The magnitude at which losses of whole rows are asked about large inputs."""


@dataclass(frozen=True)
class Spot:
    """One coordinate of one input at a special point; all floating values are float64."""

    values: tuple[Any, ...]
    position: int
    """Which argument moves."""
    words: str
    index: int | None = 0
    """Which of its elements; ``None`` leaves the choice to the gradient."""


def in_float64(inputs: Inputs) -> Inputs:
    """The same inputs with floating tensors in float64."""
    return inputs.with_values(
        [
            value.detach().double()
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
            for value in inputs.values
        ]
    )


def single_element(case: Examination, inputs: Inputs) -> Inputs | None:
    """The inputs cut down to one element each, if the loss works on that."""
    moved = moved_inputs(inputs)
    if not moved or not all(one.domain.is_free for one in moved):
        return None
    tensors = [value for value in inputs.values if isinstance(value, Tensor)]
    if any(t.numel() == 0 or (t.dim() and not t.is_floating_point()) for t in tensors):
        return None
    single = inputs.with_values(
        [
            value.reshape(-1)[:1].reshape((1,) * value.dim())
            if isinstance(value, Tensor)
            else value
            for value in inputs.values
        ]
    )
    tried = case.evaluate(single.values, dtype=torch.float64)
    if tried.failed or tried.value is None or not is_finite(tried):
        return None
    if any(gradient is None for gradient in tried.gradients[: len(moved)]):
        return None
    return single if _is_separable(case, inputs) else None


def _is_separable(case: Examination, inputs: Inputs) -> bool:
    """Whether an element's gradient stays as it is when another element changes."""
    before = case.evaluate(inputs.values, dtype=torch.float64)
    for leaf, position in enumerate(inputs.differentiable):
        values = list(inputs.values)
        values[position] = _with_largest_last(values[position])
        after = case.evaluate(values, dtype=torch.float64)
        if after.failed:
            return False
        one, other = (found.gradient(leaf).reshape(-1)[:-1] for found in (before, after))
        if not torch.allclose(one, other, rtol=1e-9, atol=0.0):
            return False
    return True


def _with_largest_last(x: Tensor) -> Tensor:
    """The tensor with its last element larger than every other, within [0, 1] where they are."""
    changed = x.reshape(-1).clone()
    top = float(changed.max())
    changed[-1] = top + (0.5 * (1 - top) if 0 < top < 1 else 1.0 if top > 0 else -0.5 * top)
    return changed.reshape(x.shape)


# ---------------------------------------------------------------------------- element by element
def element_spots(full: Inputs, single: Inputs) -> Iterator[Spot]:
    """The grid of special values for a loss that works element by element."""
    for moved in moved_inputs(single):
        position = moved.position
        domain = domain_of(full.values[position], full.arguments[position].name, smooth=True)
        other = _partner(full, position)
        if other is None:
            yield from _column(single, position, domain, None, 0.0)
            continue
        for number in _levels(full.values[other], single.values[other]):
            yield from _column(single, position, domain, other, number)


def _partner(inputs: Inputs, position: int) -> int | None:
    """The tensor that an input is compared with: the first other one of its shape."""
    shape = inputs.values[position].shape
    for other, value in enumerate(inputs.values):
        if other != position and isinstance(value, Tensor) and value.shape == shape:
            return other
    return None


def _levels(full: Tensor, single: Tensor) -> tuple[float, ...]:
    """Values of the other tensor: the given one, and special ones of its domain."""
    given = float(single.reshape(-1)[0])
    special: dict[Kind, tuple[float, ...]] = {
        Kind.UNIT: (0.0, 1.0),
        Kind.BINARY: (0.0, 1.0),
        Kind.SIGN: (1.0, -1.0),
        Kind.REAL: (0.0, 1.0, -100.0),
    }
    return tuple(dict.fromkeys((given, *special.get(domain_of(full).kind, ()))))


def _column(
    single: Inputs, position: int, domain: Domain, other: int | None, number: float
) -> Iterator[Spot]:
    """Every special value of one input beside one value of the other."""
    name = f"`{single.arguments[position].name}`"
    grid = UNIT_GRID if domain.kind is Kind.UNIT else GRID
    aside = "" if other is None else f" and `{single.arguments[other].name}` is {number:g}"
    values = [(value, f"{name} is {value:g}{aside}") for value in grid]
    if other is not None and number not in grid:
        values.insert(0, (number, f"{name} equals `{single.arguments[other].name}` ({number:g})"))
    for value, words in values:
        if not domain.contains(torch.tensor([value])):
            continue
        point = list(single.values)
        point[position] = torch.full_like(single.values[position], value)
        if other is not None:
            point[other] = torch.full_like(single.values[other], number)
        yield Spot(tuple(point), position, words)


# ---------------------------------------------------------------------------- whole rows
def row_spots(inputs: Inputs, most: int) -> Iterator[Spot]:
    """Special points of a loss whose elements depend on each other."""
    points: list[SpecialPoint] = exact_points(inputs)[:most]
    points += [ladder.point(ROW_SIZE) for ladder in ladders(inputs)[:3] if ROW_SIZE in ladder.sizes]
    for point in points:
        for position in inputs.differentiable:
            if not torch.equal(point.values[position], inputs.values[position]):
                yield Spot(point.values, position, point.words, None)


def coordinates(gradient: Tensor) -> list[int]:
    """The elements to ask about: the first, and those of the largest and smallest gradient."""
    flat = gradient.detach().abs().reshape(-1)
    return list(dict.fromkeys((0, int(flat.argmax()), int(flat.argmin()))))
