"""Whether the value of a loss depends on an input, and whether its gradient knows.

For every leaf that a gradient is wanted for there are four answers. It is *connected*: the graph
reaches it. It is *cut*: a small change of it changes the value, but no gradient arrives. It is
*flat*: small changes do nothing, large ones do (a comparison, a rounding, an index), and no
gradient arrives. Or it is *unused*: nothing changes at all.

The line that is to blame is found by replay: the recorded stops are grouped by line and each group
is held fixed in turn. The one that, held fixed, takes all the dependence away is the culprit, and
that is a proof, not a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from lossproof.checks.finite_differences import Point, derivative, direction, moved
from lossproof.checks.report import Location
from lossproof.checks.trace import Operation, Stop

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor
Kind = Literal["connected", "cut", "flat", "unused"]
LARGE_STEPS = (0.3, 1.0, 3.0)
LARGE_DIRECTIONS = 6
NOTHING = 1e-10
"""A change of the value below this share of it counts as none."""
CALLS_FOR_A_DERIVATIVE = 30


@dataclass(frozen=True)
class Reach:
    """How one leaf reaches the loss."""

    leaf: int
    name: str
    kind: Kind
    derivative: float = 0.0
    """A directional derivative of the value that the gradient does not know of."""
    change: float = 0.0
    """The largest change of the value under large steps."""
    culprits: tuple[Stop, ...] = ()
    """The stops of the line to blame; empty where no stop is to blame."""
    operation: Operation | None = None
    """The operation to blame where it keeps the graph but passes no gradient on (``round``)."""

    @property
    def location(self) -> Location | None:
        """The line to blame."""
        if self.culprits:
            return self.culprits[0].operation.site.location
        return None if self.operation is None else self.operation.site.location


@dataclass(frozen=True)
class LostTerm:
    """A term that is added to the loss but whose gradient is thrown away."""

    stops: tuple[Stop, ...]
    derivative: float
    name: str


def why_unreachable(case: Examination) -> str | None:
    """Why nothing can be said of how the leaves reach the loss; ``None`` where it can."""
    if case.base.value is None:
        return "the loss returns no number"
    if case.twin.error is not None or case.twin.value is None:
        return "the loss does not run in float64"
    return None


def reaches(case: Examination) -> tuple[Reach, ...]:
    """The answer for every leaf; measured once for a check."""
    if "reaches" not in case.notes:
        case.notes["reaches"] = tuple(
            _reach(case, leaf, name) for leaf, name in enumerate(case.leaf_names)
        )
    found: tuple[Reach, ...] = case.notes["reaches"]
    return found


def _reach(case: Examination, leaf: int, name: str) -> Reach:
    twin = case.twin
    gradient = twin.gradients[leaf] if leaf < len(twin.gradients) else None
    if gradient is not None and bool((gradient != 0).any()):
        return Reach(leaf, name, "connected")
    point = case.point
    if point[leaf].numel() == 0:
        return Reach(leaf, name, "unused")
    along = direction(point[leaf], case.seed, leaf, 71)
    value = case.value_at(None)
    slope = derivative(value, point, leaf, along)
    size = max(abs(twin.scalar), 1e-3)
    if slope is not None and abs(slope) > NOTHING * size:
        if gradient is not None and _connected_nearby(case, leaf, point, along):
            return Reach(leaf, name, "connected")
        return Reach(leaf, name, "cut", slope, culprits=_culprits(case, leaf, point, along, slope))
    change, along = _largest_change(case, leaf, point, NOTHING * size)
    if change <= NOTHING * size:
        return Reach(leaf, name, "unused")
    if gradient is not None and _connected_nearby(case, leaf, point, along):
        return Reach(leaf, name, "connected", change=change)
    return Reach(
        leaf, name, "flat", change=change,
        culprits=_discrete_culprits(case, leaf, point, along),
        operation=_flat_operation(case),
    )  # fmt: skip


def _connected_nearby(case: Examination, leaf: int, point: Point, along: Tensor) -> bool:
    """Whether a gradient arrives at another point: a satisfied margin is flat only here."""
    for step in LARGE_STEPS:
        for sign in (1, -1):
            there = case.evaluate_at(moved(point, leaf, sign * step * along))
            gradient = there.gradients[leaf] if there.gradients else None
            if gradient is not None and bool((gradient != 0).any()):
                return True
    return False


def _largest_change(
    case: Examination, leaf: int, point: Point, nothing: float
) -> tuple[float, Tensor]:
    """The largest change under large steps, and the direction of it.

    A count may stay the same along one direction although its parts change (one more right, one
    more wrong), so several are tried.
    """
    here = case.twin.scalar
    along = direction(point[leaf], case.seed, leaf, 71)
    for number in range(LARGE_DIRECTIONS):
        along = direction(point[leaf], case.seed, leaf, 71, number) if number else along
        largest = 0.0
        for step in LARGE_STEPS:
            for sign in (1, -1):
                there = case.evaluate_at(moved(point, leaf, sign * step * along), backward=False)
                if there.error is None and there.value is not None:
                    change = abs(there.scalar - here)
                    largest = max(largest, change if math.isfinite(change) else 0.0)
        if largest > nothing:
            return largest, along
    return 0.0, along


def grouped(stops: Sequence[Stop]) -> list[tuple[Stop, ...]]:
    """Stops by the place they happen at: a loop makes many of one."""
    groups: dict[object, list[Stop]] = {}
    for stop in stops:
        site = stop.operation.site
        groups.setdefault((site.own or site.inner, stop.operation.name), []).append(stop)
    return [tuple(group) for group in groups.values()]


def _touching(case: Examination, leaf: int) -> list[Stop]:
    """The stops whose value was made from this leaf."""
    trace = case.twin.trace
    if trace is None:
        return []
    argument = case.argument_of_leaf(leaf)
    if argument is None:
        return list(trace.stops)
    position = case.inputs.arguments.index(argument)
    return [stop for stop in trace.stops if position in stop.inputs]


def _culprits(
    case: Examination, leaf: int, point: Point, along: Tensor, slope: float
) -> tuple[Stop, ...]:
    """The group of stops that, held fixed alone, takes the dependence away."""
    trace = case.twin.trace
    assert trace is not None
    candidates = grouped([stop for stop in _touching(case, leaf) if not stop.discrete])
    best: tuple[float, tuple[Stop, ...]] | None = None
    for group in candidates:
        held = [stop if stop in group else None for stop in trace.stops]
        rest = derivative(case.value_at(held), point, leaf, along, scale=abs(slope))
        if rest is None:
            continue
        if best is None or abs(rest) < best[0]:
            best = (abs(rest), group)
    if best is not None and best[0] < 0.999 * abs(slope):
        return best[1]
    return candidates[0] if candidates else ()


def _discrete_culprits(
    case: Examination, leaf: int, point: Point, along: Tensor
) -> tuple[Stop, ...]:
    """The first discrete group that, held fixed, keeps the value from changing."""
    trace = case.twin.trace
    assert trace is not None
    candidates = grouped([stop for stop in _touching(case, leaf) if stop.discrete])
    for group in candidates:
        held = [stop if stop in group else None for stop in trace.stops]
        value = case.value_at(held)
        if all(_unchanged(value, point, leaf, step * along) for step in LARGE_STEPS):
            return group
    return candidates[0] if candidates else ()


def _unchanged(value: object, point: Point, leaf: int, shift: Tensor) -> bool:
    try:
        here, there = value(point)[0], value(moved(point, leaf, shift))[0]  # type: ignore[operator]
    except Exception:  # the user's code may refuse the point
        return False
    return bool(abs(there - here) <= NOTHING * max(abs(here), 1e-3))


def _flat_operation(case: Examination) -> Operation | None:
    """The operation whose incoming gradient is not zero and whose outgoing one is."""
    twin = case.twin
    if twin.trace is None or twin.value is None or not twin.value.requires_grad:
        return None
    found: list[Operation] = []
    handles = []
    for node, operation in twin.trace.nodes.items():

        def look(gradients: object, incoming: object, operation: Operation = operation) -> None:
            if _any_nonzero(incoming) and _has_tensor(gradients) and not _any_nonzero(gradients):
                found.append(operation)

        handles.append(node.register_hook(look))
    try:
        torch.autograd.grad(
            twin.value, twin.leaves, twin.upstream, retain_graph=True, allow_unused=True
        )
    except RuntimeError:
        return None
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _has_tensor(gradients: object) -> bool:
    return any(isinstance(g, Tensor) for g in gradients)  # type: ignore[attr-defined]


def _any_nonzero(gradients: object) -> bool:
    return any(
        isinstance(g, Tensor) and bool((g != 0).any())
        for g in gradients  # type: ignore[attr-defined]
    )


def lost_terms(case: Examination) -> tuple[LostTerm, ...]:
    """Stopped values that enter the loss as mere additions.

    A value may be stopped on purpose: a weight, a normaliser, a target. What is *added* to the
    loss and stopped does nothing for training: its gradient is thrown away, and the number that
    remains is a constant to the optimiser. The value is nudged by the same at several points: if
    the loss answers by the same amount, whatever the inputs are, the stopped value is an added
    term, or all that the added term is made of.
    """
    trace = case.twin.trace
    if trace is None or case.twin.value is None or not case.twin.value.requires_grad:
        return ()
    return tuple(
        term
        for group in grouped([stop for stop in trace.stops if not stop.discrete])
        if len(group) == 1
        for term in [_lost_term(case, group[0])]
        if term is not None
    )


def _lost_term(case: Examination, stop: Stop) -> LostTerm | None:
    if not _is_continuous(stop.value):
        return None
    answers = [_answer(case, stop, number) for number in range(3)]
    if any(answer is None for answer in answers):
        return None
    first = answers[0]
    assert first is not None
    # A nudge that leaves the domain (a negative variance) answers with NaN, which says nothing.
    same = all(abs(a - first) <= 1e-7 * abs(first) for a in answers if a is not None)
    if not math.isfinite(first) or abs(first) < 1e-6 or not same:
        return None
    trace = case.twin.trace
    assert trace is not None
    others = [None if other is stop else other for other in trace.stops]
    for leaf, name in enumerate(case.leaf_names):
        along = direction(case.point[leaf], case.seed, leaf, 72)
        moving = derivative(case.value_at(others), case.point, leaf, along)
        if moving is None or abs(moving) < NOTHING:
            # Nothing is lost where the value would not answer: a straight-through estimator.
            continue
        held = _held_derivative(case, leaf, along, moving)
        if held is None:
            continue
        lost = moving - held
        if abs(lost) > 1e-5 * max(abs(moving), abs(held)):
            return LostTerm((stop,), lost, name)
    return None


def _held_derivative(case: Examination, leaf: int, along: Tensor, moving: float) -> float | None:
    """The derivative with all stopped values held fixed.

    That is what autograd computes: where torch wrote all of the backward pass, a slow loss is
    not called again for it.
    """
    trace = case.twin.trace
    assert trace is not None
    own_backward = bool(case.calls) or case.twin.failed
    if not own_backward and not case.affordable(CALLS_FOR_A_DERIVATIVE):
        return float((case.twin.gradient(leaf) * along).sum())
    return derivative(case.value_at(trace.stops), case.point, leaf, along, scale=abs(moving))


def _is_continuous(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() > 0 and value.is_floating_point()
    return isinstance(value, float)


def _answer(case: Examination, stop: Stop, number: int) -> float | None:
    """By how much the loss changes for a nudge of the stopped value."""
    trace = case.twin.trace
    assert trace is not None
    point: Point = case.point
    for leaf in range(len(case.leaf_names)):
        shift = 0.1 * number * direction(point[leaf], case.seed, leaf, 73, number)
        point = moved(point, leaf, shift)
    value = stop.value + 0.25 * (
        direction(stop.value, case.seed, 74) if isinstance(stop.value, Tensor) else 1.0
    )
    nudged = [replace(s, value=value) if s is stop else s for s in trace.stops]
    try:
        return case.value_at(nudged)(point)[0] - case.value_at(trace.stops)(point)[0]
    except Exception:  # the user's code may refuse the point
        return None
