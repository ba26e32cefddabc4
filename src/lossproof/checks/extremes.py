"""What two losses do where one of them may break: ties, zeros, borders, and large magnitudes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from lossproof.checks.agreement import Pair
from lossproof.checks.comparison import Extreme, Reading
from lossproof.checks.domain import Kind
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.ladders import Ladder, ladders
from lossproof.checks.moved_inputs import SpecialPoint, moved_inputs
from lossproof.checks.nonfinite import find_culprit
from lossproof.checks.special_points import exact_points

Tensor = torch.Tensor
Compared = tuple[SpecialPoint, Extreme]

FACTORS = (10.0, 100.0, 1000.0)
"""By how much the given inputs are multiplied."""
HIGH = (100.0, 1000.0)
"""A ladder is climbed to these rungs first, and rung by rung only where one of them breaks."""
TOLERANCE = 1e-3
"""Relative to the larger value: rounding is large at extremes, and not what is asked here."""


def compare_extremes(pair: Pair, same: bool) -> tuple[Extreme, ...]:
    """Call both losses at extreme points, in the user's own dtype.

    Args:
        pair: the two losses, on inputs small enough to be called a hundred times.
        same: whether they are the same at ordinary points, so that their numbers can be compared
            at extreme ones too.
    """
    found = [_climbed(pair, ladder, same) for ladder in ladders(pair.a.inputs)]
    found += [_compared(pair, point, same) for point in _multiples(pair)]
    found += [_compared(pair, point, same) for point in exact_points(pair.a.inputs)]
    for verdict, case, side in (("a fails", pair.a, "a"), ("b fails", pair.b, "b")):
        first = next((i for i, one in enumerate(found) if one[1].verdict == verdict), None)
        if first is not None:
            found[first] = _explained(*found[first], case, side)
    return tuple(extreme for _, extreme in found)


def _explained(
    point: SpecialPoint, extreme: Extreme, case: Examination, side: str
) -> tuple[SpecialPoint, Extreme]:
    """Name the operation that first left the finite numbers."""
    culprit = find_culprit(case, point.values)
    if culprit is None:
        return point, extreme
    verb = "is nan" if culprit.produced == "nan" else "is infinite"
    if culprit.phase == "backward":
        verb = f"{verb} backward"
    elif culprit.produced == "inf" and culprit.operand is not None and abs(culprit.operand) > 1:
        verb = "overflows"
    what = culprit.text or culprit.operation
    reading = replace(getattr(extreme, side), culprit=f"`{what}` {verb}", location=culprit.location)
    return point, replace(extreme, **{side: reading})


def _multiples(pair: Pair) -> Iterator[SpecialPoint]:
    """The given inputs times 10, 100 and 1000, where their domain allows it."""
    growing = [
        moved
        for moved in moved_inputs(pair.a.inputs)
        if moved.domain.kind in (Kind.REAL, Kind.POSITIVE, Kind.NONNEGATIVE)
    ]
    for factor in FACTORS if growing else ():
        values = list(pair.a.inputs.values)
        for moved in growing:
            values[moved.position] = moved.tensor * factor
        names = " and ".join(moved.name for moved in growing)
        verb = "is" if len(growing) == 1 else "are"
        yield SpecialPoint(tuple(values), f"{names} {verb} multiplied by {factor:g}")


def _climbed(pair: Pair, ladder: Ladder, same: bool) -> Compared:
    """The lowest rung at which the two part as they do high up, else the highest."""
    for size in HIGH:
        found = _compared(pair, ladder.point(size), same)
        if found[1].differs:
            break
    else:
        return found
    for rung in sorted(rung for rung in ladder.sizes if rung < size):
        lower = _compared(pair, ladder.point(rung), same)
        if lower[1].verdict == found[1].verdict:
            return lower
    return found


def _compared(pair: Pair, point: SpecialPoint, same: bool) -> Compared:
    found = pair.evaluate(point.values, dtype=None)
    a, b = (_reading(pair, side) for side in found)
    verdict = _verdict(pair, point, found, (a, b), same)
    if verdict not in ("same", "finite"):
        a = replace(a, truth=_truth(pair, 0, point))
        b = replace(b, truth=_truth(pair, 1, point))
    return point, Extreme(point.words, a, b, verdict)


def _reading(pair: Pair, found: Evaluation) -> Reading:
    error = found.error or found.backward_error
    if error is not None:
        return Reading(None, "none", error=f"{type(error).__name__}: {error}".partition("\n")[0])
    if found.value is None:
        return Reading(None, "none", error="returned no tensor")
    gradients = [g for g in found.gradients[: len(pair.a.inputs.differentiable)] if g is not None]
    return Reading(float(pair.view.value(found).double().mean()), _health(gradients))


def _health(gradients: list[Tensor]) -> str:
    if not gradients:
        return "none"
    if any(bool(torch.isnan(g).any()) for g in gradients):
        return "nan"
    return "finite" if all(bool(torch.isfinite(g).all()) for g in gradients) else "inf"


def _truth(pair: Pair, side: int, point: SpecialPoint) -> float | None:
    """The value in float64."""
    case = (pair.a, pair.b)[side]
    found = case.evaluate(point.values, dtype=torch.float64, backward=False)
    if found.error is not None or found.value is None:
        return None
    return float(pair.view.value(found).double().mean())


def _verdict(
    pair: Pair,
    point: SpecialPoint,
    found: tuple[Evaluation, Evaluation],
    readings: tuple[Reading, Reading],
    same: bool,
) -> str:
    a, b = readings
    if a.fails or b.fails:
        return "both fail" if a.fails and b.fails else "a fails" if a.fails else "b fails"
    if not same:
        return "finite"
    one, two = (pair.view.value(side).double() for side in found)
    if not _near(one, two, _rounding(pair, point)):
        return "values differ"
    for _, i, j in pair.leaves:
        gradients = found[0].gradient(i).double(), found[1].gradient(j).double()
        size = float(pair.base[0].gradient(i).abs().max())
        if not _near(*gradients, 16 * torch.finfo(pair.dtype).eps * size):
            return "gradients differ"
    return "same"


def _rounding(pair: Pair, point: SpecialPoint) -> float:
    """What rounding alone may do to a value that is made from these inputs."""
    usual = float(pair.view.value(pair.base[0]).double().abs().max())
    largest = max(
        (
            float(value.detach().abs().max())
            for value in point.values
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
        ),
        default=0.0,
    )
    return 16 * torch.finfo(pair.dtype).eps * (usual + largest)


def _near(one: Tensor, other: Tensor, rounding: float) -> bool:
    if one.numel() == 0:
        return True
    gap = float((one.reshape(-1) - other.reshape(-1)).abs().max())
    size = max(float(one.abs().max()), float(other.abs().max()))
    return math.isfinite(gap) and gap <= TOLERANCE * size + rounding
