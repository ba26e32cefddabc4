"""The points at which losses break: ties, zeros, constants and borders.

Random inputs never hit them: a prediction equals its target, a patch of an image is flat, two
samples are the same, a probability is exactly 1. Only the inputs that want a
gradient are moved, and only within their domain (:mod:`lossproof.checks.domain`): what a loss does
with another target or mask is not asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from lossproof.checks.domain import Kind, domain_of, largest
from lossproof.checks.inputs import Inputs
from lossproof.checks.moved_inputs import (
    Moved,
    SpecialPoint,
    Values,
    all_at,
    classes_of,
    moved_inputs,
    one_hot,
    with_value,
)

Tensor = torch.Tensor

ELEMENTS: tuple[float, ...] = (
    0.0, 1e-8, -1e-8, 1e-4, -1e-4, 0.5, -0.5, 1.0, -1.0, 1.001, -1.001, 2.0, -2.0, 3.0, -5.0, 10.0,
)  # fmt: skip
PROBABILITIES: tuple[float, ...] = (0.0, 1.0, 1e-12, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6)


def exact_points(inputs: Inputs) -> list[SpecialPoint]:
    """Every exactly special point of moderate size, the most natural ones first."""
    all_moved = moved_inputs(inputs)
    found: list[SpecialPoint] = []
    for make in (_ties, _constants, _samples, _elements):
        for moved in all_moved:
            found += [point for point in make(moved) if _differs(point.values, inputs.values)]
    found += _joint(inputs, all_moved)
    found += list(_shared_rows(inputs, all_moved))
    found += list(_targets(inputs, all_moved))
    return found


def _differs(values: Values, given: Values) -> bool:
    return any(
        one is not other and not torch.equal(one, other)
        for one, other in zip(values, given, strict=True)
        if isinstance(one, torch.Tensor)
    )


# ---------------------------------------------------------------------------- ties
def _partners(moved: Moved) -> Iterator[tuple[str, Tensor]]:
    """The other tensors that this input can be set equal to, with their names."""
    for position, argument in enumerate(moved.inputs.arguments):
        other = argument.value
        if position == moved.position or not isinstance(other, torch.Tensor):
            continue
        if other.is_complex() or other.numel() != moved.tensor.numel():
            continue
        # A pair of inputs that both move needs one tie only.
        if argument.differentiable and position < moved.position:
            continue
        values = other.detach().reshape(moved.tensor.shape).to(moved.tensor.dtype)
        if moved.domain.contains(values):
            yield f"`{argument.name}`", values


def _ties(moved: Moved) -> Iterator[SpecialPoint]:
    x = moved.tensor
    for name, other in _partners(moved):
        yield moved.point(other, f"{{name}} equals {name}")
        if moved.domain.kind is Kind.ROTATION:
            half_turn = torch.ones(x.shape[-1], dtype=x.dtype)
            half_turn[1:3] = -1
            yield moved.point(other * half_turn, f"{{name}} is half a turn away from {name}")
        elif moved.domain.kind in (Kind.REAL, Kind.UNIT_NORM):
            yield moved.point(-other, f"{{name}} is the negative of {name}")
        elif moved.domain.is_free:
            border = 1.0 if moved.domain.kind is Kind.UNIT else float(other.max() + other.min())
            yield moved.point(border - other, f"{{name}} is {name} reversed ({border:g} minus it)")
        if x.dim() and x.shape[0] > 1:
            mixed = x.clone()
            mixed[0] = other[0]
            what = "sample" if x.dim() > 1 else "element"
            yield moved.point(mixed, f"one {what} of {{name}} equals that of {name}")


def _joint(inputs: Inputs, all_moved: Sequence[Moved]) -> list[SpecialPoint]:
    """Points at which several inputs of one shape move together."""
    free = [moved for moved in all_moved if moved.domain.is_free]
    same = [moved for moved in free if moved.tensor.shape == free[0].tensor.shape]
    if len(same) < 2:
        return []
    names = ", ".join(moved.name for moved in same)
    found = []
    if len(same) > 2 and all(moved.domain == same[0].domain for moved in same):
        equal = all_at(inputs, same, lambda moved: same[0].tensor)
        found.append(SpecialPoint(equal, f"{names} are all equal"))
    if not any(moved.domain.kind is Kind.POSITIVE for moved in same):
        zeros = all_at(inputs, same, lambda moved: moved.filled(0.0))
        found.append(SpecialPoint(zeros, f"{names} are all 0"))
    return found


def _shared_rows(inputs: Inputs, all_moved: Sequence[Moved]) -> Iterator[SpecialPoint]:
    """Vectors that equal a vector of another table, as features do that lie at their centre.

    Inputs of one shape are tied as a whole (:func:`_ties`); these share their last axis only.
    """
    for moved in all_moved:
        x = moved.tensor
        if x.dim() < 2 or not moved.domain.is_free:
            continue
        for position, argument in enumerate(inputs.arguments):
            table = argument.value
            if position == moved.position or not isinstance(table, torch.Tensor):
                continue
            if table.dim() < 2 or table.shape == x.shape or table.shape[-1] != x.shape[-1]:
                continue
            if not table.is_floating_point() or not table.numel() or x.shape[-1] < 2:
                continue
            row = table.detach().reshape(-1, table.shape[-1])[0].to(x.dtype)
            if moved.domain.contains(row):
                words = f"every vector of {{name}} equals the first one of `{argument.name}`"
                yield moved.point(row.expand(x.shape), words)


_SOFT_LABELS = re.compile(
    r"^(y|y_?true|y_?gt|t|targets?|labels?|gt\w*|truth|teacher\w*|[pq])$", re.I
)


def _targets(inputs: Inputs, all_moved: Sequence[Moved]) -> Iterator[SpecialPoint]:
    """Soft labels that are as hard as labels mostly are: exactly 0 and 1.

    Only what is called a label is moved: a weight or a mask of zeros leaves nothing to average.
    """
    shapes = [moved.tensor.shape for moved in all_moved]
    for position, argument in enumerate(inputs.arguments):
        value = argument.value
        if argument.differentiable or not isinstance(value, torch.Tensor):
            continue
        if not value.is_floating_point() or value.shape not in shapes:
            continue
        target = Moved(inputs, position, domain_of(value))
        if not _SOFT_LABELS.match(argument.name):
            continue
        if target.domain.kind is Kind.PROBABILITY:
            yield from list(_certainties(target))[:1]
        elif target.domain.kind is Kind.UNIT:
            hard = torch.arange(value.numel()).reshape(value.shape) % 2
            yield target.point(hard, "{name} is exactly 0 or 1 everywhere")


# ---------------------------------------------------------------------------- constants
def _constants(moved: Moved) -> Iterator[SpecialPoint]:
    x, kind = moved.tensor, moved.domain.kind
    if kind is Kind.ROTATION:
        eye = torch.eye(x.shape[-1], dtype=x.dtype).expand(x.shape)
        yield moved.point(eye, "{name} is the identity everywhere")
    elif kind in (Kind.PROBABILITY, Kind.LOG_PROBABILITY):
        assert moved.domain.axis is not None
        uniform = moved.filled(1 / x.shape[moved.domain.axis])
        if kind is Kind.LOG_PROBABILITY:
            uniform = uniform.log()
        else:
            yield from _certainties(moved)
        yield moved.point(uniform, "{name} is uniform everywhere")
    elif kind is Kind.UNIT_NORM:
        assert moved.domain.axis is not None
        basis = moved.filled(0.0)
        basis.select(moved.domain.axis, 0).fill_(1)
        yield moved.point(basis, "{name} is the first basis vector everywhere")
    else:
        for value in _levels(moved):
            yield moved.point(moved.filled(value), f"{{name}} is {value:g} everywhere")
    if kind is Kind.REAL:
        yield moved.point(x.abs(), "{name} is positive everywhere")
        yield moved.point(-x.abs(), "{name} is negative everywhere")


def _levels(moved: Moved) -> tuple[float, ...]:
    """Constants of the domain. 0.3 is no binary fraction: sums of it round."""
    kind = moved.domain.kind
    if kind is Kind.UNIT:
        return (0.0, 1.0, 0.5, 0.3)
    if kind is Kind.POSITIVE:
        typical = float(f"{float(moved.tensor.double().median()):.1g}")
        return (typical,)
    if kind is Kind.NEGATIVE:
        return (0.0, -1.0, -0.3)
    return (0.0, 1.0, 0.3)


def _certainties(moved: Moved) -> Iterator[SpecialPoint]:
    """Probabilities that are exactly 0 and 1, for the right class and for another."""
    axis = moved.domain.axis
    assert axis is not None
    for words, index in classes_of(moved, axis):
        yield moved.point(one_hot(moved, axis, index), f"{{name}} is exactly 1 for {words}")


# ---------------------------------------------------------------------------- samples
def _samples(moved: Moved) -> Iterator[SpecialPoint]:
    """One sample, one vector or one region is degenerate; two samples are the same."""
    x, kind = moved.tensor, moved.domain.kind
    if x.dim() == 0:
        return
    if x.shape[0] > 1 and x.dim() > 1:
        yield moved.point(with_value(x, 1, x[0]), "two samples of {name} are equal")
        yield moved.point(x[:1].expand(x.shape), "all samples of {name} are equal")
    if not moved.domain.is_free:
        return
    level = _levels(moved)[-1]
    zero = kind is not Kind.POSITIVE
    if x.dim() > 1:
        if zero:
            yield moved.point(with_value(x, 0, 0.0), "one sample of {name} is 0")
        yield moved.point(with_value(x, 0, level), "one sample of {name} is constant")
        column = (slice(None), 0)
        if zero and x.shape[1] > 1:
            yield moved.point(with_value(x, column, 0.0), "one column of {name} is 0")
        yield moved.point(with_value(x, column, level), "one column of {name} is constant")
    if x.dim() > 2 and zero:
        yield moved.point(with_value(x, (0,) * (x.dim() - 1), 0.0), "one vector of {name} is 0")
        yield moved.point(
            with_value(x, (0, slice(None), *(0,) * (x.dim() - 2)), 0.0), "one pixel of {name} is 0"
        )
    half = [slice(None)] * x.dim()
    for axis in range(max(0, x.dim() - 2 if x.dim() > 2 else x.dim() - 1), x.dim()):
        half[axis] = slice(0, (x.shape[axis] + 1) // 2 + 1)
    yield moved.point(with_value(x, tuple(half), level), "a region of {name} is constant")
    if zero:
        yield moved.point(with_value(x, tuple(half), 0.0), "a region of {name} is 0")


# ---------------------------------------------------------------------------- elements
def element_values(moved: Moved) -> tuple[float, ...]:
    """Single values of the domain that are special; none where elements depend on each other."""
    kind = moved.domain.kind
    if not moved.domain.is_free:
        return ()
    if kind is Kind.UNIT:
        return PROBABILITIES
    reach = max(1.0, largest(moved.tensor))
    values = tuple(value for value in ELEMENTS if abs(value) <= reach)
    if kind is Kind.POSITIVE:
        least = float(moved.tensor.min())
        return tuple(value for value in values if value > 0 and value >= least * 1e-3)
    if kind is Kind.NONNEGATIVE:
        return tuple(value for value in values if value >= 0)
    if kind is Kind.NEGATIVE:
        return tuple(value for value in values if value <= 0)
    return values


def _elements(moved: Moved) -> Iterator[SpecialPoint]:
    values = element_values(moved)
    if not values:
        return
    x = moved.tensor
    for value in values[: 2 if moved.domain.kind is Kind.UNIT else 1]:
        if value in (0.0, 1.0):
            yield moved.point(
                with_value(x.reshape(-1), 0, value).reshape(x.shape),
                f"one element of {{name}} is {value:g}",
            )
    # Many values in one call; where it fails, they are tried one by one.
    parts = tuple(
        moved.point(
            with_value(x.reshape(-1), 0, value).reshape(x.shape),
            f"one element of {{name}} is {value:g}",
        )
        for value in values
    )
    for start in (0, 1):
        cycle = torch.tensor(values, dtype=x.dtype).roll(-start)
        repeated = cycle.repeat(x.numel() // len(values) + 1)[: x.numel()].reshape(x.shape)
        shown = ", ".join(f"{float(value):g}" for value in cycle[:3])
        words = f"the elements of {moved.name} run through {shown}, ..."
        yield SpecialPoint(moved.to(repeated), words, parts)


# ---------------------------------------------------------------------------- what the loss asks
def asked_points(inputs: Inputs, levels: Mapping[int, Sequence[float]]) -> list[SpecialPoint]:
    """Elements that are 0 or within the domain, and that the loss itself compares an input with.

    ``torch.where(x > 0, x.log(), 0)`` says that zeros may come, even where the given elements are
    all positive.

    Args:
        inputs: the inputs to move.
        levels: for each position the numbers that the input there is compared with.
    """
    found = []
    for moved in moved_inputs(inputs):
        if not moved.domain.is_free:
            continue
        for level in levels.get(moved.position, ()):
            changed = with_value(moved.tensor.reshape(-1), 0, level).reshape(moved.tensor.shape)
            if level == 0 or moved.domain.contains(changed):
                words = f"one element of {{name}} is {level:g}, which the loss asks about"
                found.append(moved.point(changed, words))
    return found


# ---------------------------------------------------------------------------- near a tie
NEAR = 1e-3
"""How far a prediction that is nearly right is off."""


def nearness(inputs: Inputs) -> list[SpecialPoint]:
    """Predictions that are nearly their target, as at the end of a training."""
    found = []
    for moved in moved_inputs(inputs):
        if moved.domain.kind is Kind.REAL:
            noise = moved.tensor / largest(moved.tensor) * NEAR
            for name, other in _partners(moved):
                words = f"{{name}} is within {NEAR:g} of {name}"
                point = moved.point(other + noise, words)
                found.append(replace(point, spread=0.1 * NEAR))
    return found
