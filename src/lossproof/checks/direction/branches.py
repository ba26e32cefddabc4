"""Branches of a piecewise formula that do not meet.

One element of the prediction goes from its target outward. Where the value changes by more than the
gradient on both sides explains, and still does on an interval of almost no length, it jumps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lossproof.checks.conventions import Fault
from lossproof.checks.direction import Comparison, Point
from lossproof.checks.domain import Kind
from lossproof.checks.report import Location, Severity
from lossproof.checks.trace import Operation

Tensor = torch.Tensor

COMPARISONS = frozenset("lt le gt ge less greater less_equal greater_equal".split())
COMPARISON_METHODS = frozenset("__lt__ __le__ __gt__ __ge__".split())
STEPPED = frozenset(
    "round floor ceil trunc sign sgn topk sort argsort argmax argmin quantile kthvalue".split()
)
GRID = 12
FARTHEST = 6.0
SMOOTH = 1e-4
"""A residual of this share of the value's range is no jump yet."""
JUMP = 1e-3
HALVINGS = 40


@dataclass(frozen=True)
class Side:
    """One end of an interval: how far out the element is, and what the loss makes of it."""

    distance: float
    point: Point
    slope: float

    @property
    def value(self) -> float:
        return self.point.value


def branches_do_not_meet(comparison: Comparison) -> Iterator[Fault]:
    """Losses that choose by a comparison of the prediction with the target."""
    target = comparison.target.double()
    if target.shape != comparison.prediction.shape or not _chooses(comparison):
        return
    if not comparison.case.affordable(GRID + HALVINGS):
        return
    walk = _Walk(comparison, target)
    sides = [walk.side(walk.reach * ((step + 0.37) / GRID) ** 2) for step in range(GRID)]
    known = [side for side in sides if side is not None]
    start = walk.side(0.0)
    if len(known) < GRID or start is None:
        return
    values = [side.value for side in known]
    span = max(values) - min(values)
    found = walk.narrowed(known, span)
    if span > 0 and found is not None and _is_fault(walk, start, *found, span):
        yield _fault(comparison, walk, *found)


def _chooses(comparison: Comparison) -> bool:
    """Whether the recorded call compares what comes from the prediction, and rounds nothing."""
    operations = comparison.call.operations
    if any(operation.name in STEPPED for operation in operations):
        return False
    return any(_is_choice(comparison, operation) for operation in operations)


def _is_choice(comparison: Comparison, operation: Operation) -> bool:
    names = COMPARISONS | COMPARISON_METHODS
    return operation.name in names and comparison.position in operation.inputs


class _Walk:
    """One element of the prediction on its way out from the target."""

    def __init__(self, comparison: Comparison, target: Tensor) -> None:
        self.comparison = comparison
        self.target = target
        flat = target.reshape(-1)
        unit = comparison.domain.kind is Kind.UNIT
        # In [0, 1], the element whose target leaves the most room.
        self.element = int((flat - 0.5).abs().argmax()) if unit else 0
        self.at_target = float(flat[self.element])
        self.direction = -1.0 if unit and self.at_target > 0.5 else 1.0
        self.reach = max(self.at_target, 1 - self.at_target) if unit else FARTHEST

    def prediction(self, distance: float) -> Tensor:
        moved = self.comparison.prediction.reshape(-1).clone()
        moved[self.element] = self.at_target + self.direction * distance
        return moved.reshape(self.target.shape)

    def side(self, distance: float) -> Side | None:
        point = self.comparison.at(self.prediction(distance))
        if point is None:
            return None
        slope = float(point.gradient.reshape(-1)[self.element]) * self.direction
        return Side(distance, point, slope)

    def narrowed(self, sides: list[Side], span: float) -> tuple[Side, Side] | None:
        """The two sides of a jump; ``None`` where the value is continuous."""
        intervals = list(itertools.pairwise(sides))
        left, right = max(intervals, key=lambda ends: _unexplained(*ends))
        for _ in range(HALVINGS):
            if _unexplained(left, right) < SMOOTH * span:
                return None
            middle = self.side((left.distance + right.distance) / 2)
            if middle is None:
                return None
            halves = ((left, middle), (middle, right))
            left, right = max(halves, key=lambda ends: _unexplained(*ends))
        return left, right


def _unexplained(left: Side, right: Side) -> float:
    """What of a change in value the slopes at both ends leave unexplained."""
    width = right.distance - left.distance
    return abs(right.value - left.value - width * (left.slope + right.slope) / 2)


def _is_fault(walk: _Walk, start: Side, left: Side, right: Side, span: float) -> bool:
    """Whether two formulas meet there, and neither is the other one weighted or left out."""
    if abs(right.value - left.value) < JUMP * span or left.slope == 0 or right.slope == 0:
        return False
    others = left.point.gradient.reshape(-1).clone(), right.point.gradient.reshape(-1).clone()
    for gradient in others:
        gradient[walk.element] = 0
    # A sample that comes in or drops out (hard examples) changes what the others count.
    if not torch.allclose(*others, rtol=1e-6, atol=1e-9 * float(others[0].abs().max())):
        return False
    if _is_one_formula(walk, left, right):
        return False
    before, after = left.value - start.value, right.value - start.value
    weighted = abs(after * left.slope - before * right.slope)
    return weighted > 1e-3 * max(abs(after * left.slope), abs(before * right.slope))


def _is_one_formula(walk: _Walk, left: Side, right: Side) -> bool:
    """Whether the slope bends alike on both sides: one formula, to which a step was added."""
    width = 0.02 * left.distance
    further = [walk.side(left.distance - width), walk.side(right.distance + width)]
    if further[0] is None or further[1] is None:
        return True
    bends = left.slope - further[0].slope, further[1].slope - right.slope
    scale = max(abs(left.slope), abs(right.slope))
    same_slope = abs(left.slope - right.slope) < 1e-6 * scale
    return same_slope and abs(bends[0] - bends[1]) < 0.1 * max(map(abs, bends)) + 1e-9 * scale


def _fault(comparison: Comparison, walk: _Walk, left: Side, right: Side) -> Fault:
    share = left.value, right.value
    return Fault(
        f"the value jumps from {share[0]:.6g} to {share[1]:.6g} where `{comparison.name}` is "
        f"{left.distance:.4g} away from `{comparison.target_name}`: two branches do not meet",
        _location(comparison, walk, left, right),
        "branches-do-not-meet",
        "choose the constant of one branch such that both are equal where they change over",
        {"distance": left.distance, "before": share[0], "after": share[1]},
        (
            f"slope {left.slope:.4g} before and {right.slope:.4g} after, for one element of "
            f"{walk.target.numel()}",
        ),
        Severity.WARNING,
    )


def _location(comparison: Comparison, walk: _Walk, left: Side, right: Side) -> Location | None:
    """The comparison that comes out otherwise on the other side."""
    recordings = []
    for side in (left, right):
        values = list(comparison.case.inputs.values)
        values[comparison.position] = walk.prediction(side.distance)
        trace = comparison.case.evaluate(
            values, dtype=torch.float64, backward=False, record=True
        ).trace
        recordings.append([] if trace is None else trace.operations)
    for one, other in zip(*recordings, strict=False):
        names = COMPARISONS | COMPARISON_METHODS
        if one.name in names and other.name == one.name and not torch.equal(one.out, other.out):
            location: Location | None = one.site.location
            return location
    return comparison.case.subject.location
