"""At a kink or in a corner, the gradient is no subgradient of the loss.

## What it does

Asks at special values of single elements (ties, 0, whole numbers, borders of a clamp, far out)
for the derivatives from the left and from the right, in float64, extrapolated and at several step
sizes. Where they converge, the gradient must lie between them: at a kink anything between is a
subgradient, on a smooth stretch both are the same. A rule that holds is reported with the
subgradient that is used.

## Why it matters

Random inputs never hit a tie or a prediction 50 away from its target, so a gradient that is wrong
only there passes every comparison with finite differences. Training hits it: predictions start at
0, labels are whole numbers, outliers are far out.

## Example

```python
class L1(torch.autograd.Function):
    @staticmethod
    def forward(ctx, prediction, target):
        ctx.save_for_backward(prediction, target)
        return (prediction - target).abs().sum()

    @staticmethod
    def backward(ctx, grad_output):
        prediction, target = ctx.saved_tensors
        sign = torch.where(prediction > target, 1.0, -1.0)
        return grad_output * torch.where(prediction == target, 5.0, sign), None
```

## Use instead

```python
        return grad_output * torch.sign(prediction - target), None  # 0 at a tie
```

## Not reported

- Any subgradient: `abs` at 0 may have the gradient -1, 0, 1 or anything between.
- The border of the domain, where one side is missing: the gradient is free to point outwards.
- Points at which the one-sided derivatives do not converge, such as a clamped logarithm at 0.
- A smooth stretch of a loss without a hand-written backward: a difference there is rounding.
- A gradient that is wrong at ordinary inputs, too; that is LP202.
- Operations of torch whose own subgradients are right, each by itself, but do not add up to one of
  the loss: ties between whole samples, or `x.clamp(min=0) + log1p(exp(-x.abs()))` at exactly 0,
  where the gradient is 1 and the slope 0.5. The report says so under *unproved*.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.finite_differences import direction
from lossproof.checks.global_state import untouched_globals
from lossproof.checks.inputs import Inputs
from lossproof.checks.kinks import kink_between
from lossproof.checks.nonfinite import is_finite
from lossproof.checks.one_sided import CLEARLY, Along, Slopes, agrees_quickly, one_sided
from lossproof.checks.report import Finding, Location, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import Site
from lossproof.checks.spots import (
    Spot,
    coordinates,
    element_spots,
    in_float64,
    row_spots,
    single_element,
)
from lossproof.checks.survey import cost, probing_inputs
from lossproof.checks.trace import Stop

RULE = RULES["LP209"]

Tensor = torch.Tensor

BUDGET = 0.15
"""Seconds for the special values, by the same estimate as the survey's."""
FORWARD_SHARE = 0.4
"""What a value costs, in calls with a gradient."""
REPLAYED = 4
"""How much more a call costs while its stops are held fixed."""
LEAST_CALLS = 24
HEAVY = 0.1
"""From so many seconds a call on, what two calls do not settle is left open: it takes fifty."""
FEW_CALLS = 10
ENOUGH = 6
"""So many wrong gradients need no more."""
ORDINARY = 1e-5
"""The share of the slope by which a gradient may be off at ordinary inputs."""
KINKS_SHOWN = 8
ROWS = 16
"""Special points at which a loss of whole rows is asked."""


@dataclass(frozen=True)
class _Answer:
    """What was measured at one coordinate."""

    spot: Spot
    along: Tensor
    """The direction of the derivative: one coordinate, or all together."""
    gradient: float
    slopes: Slopes
    wrong: bool
    refined: Callable[[], Slopes | None]
    """The same slopes by extrapolation, for an answer that two calls have settled."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Compare the gradient with one-sided derivatives at special values."""
    base, twin = case.base, case.twin
    if twin.failed or twin.value is None or not is_finite(twin) or not is_finite(base):
        yield RULE.unproved("the loss or its gradient is not finite at the given inputs")
        return
    if not any(isinstance(gradient, Tensor) for gradient in twin.gradients):
        yield RULE.not_applicable("no gradient reaches an input")
        return
    inputs = in_float64(probing_inputs(case))
    prober = _Prober(case)
    with prober.quiet():
        if not prober.is_right_at(inputs):
            yield RULE.unproved("the gradient already differs at ordinary inputs")
            return
        answers, spots, left_out = prober.ask(inputs)
        wrong = [answer for answer in answers if answer.wrong]
        if wrong and _is_composed(case, wrong):
            yield RULE.unproved(_composed(case, wrong))
        elif wrong:
            yield _finding(case, wrong)
        elif answers:
            yield RULE.proved(_limit(prober, answers))
        else:
            why = "the loss is slow, and" if prober.heavy else "no one-sided derivatives converge:"
            yield RULE.unproved(f"{why} {spots} special values were not settled")
        words = _cancelled(case, prober.cancelled)
        if words is not None and not wrong:
            yield RULE.unproved(words)
    if left_out:
        yield RULE.unproved(
            f"{left_out} special values were left out because the loss takes many operations"
        )


class _Prober:
    """Asks for gradients and one-sided derivatives of one loss."""

    def __init__(self, case: Examination) -> None:
        self.case = case
        self.random = bool(case.trace.random)
        self.calls_left = LEAST_CALLS
        self.cancelled: list[_Answer] = []
        """Wrong gradients where the loss itself has no kink."""
        self.usual = 0.0
        """The largest gradient of an element at ordinary inputs."""
        self.heavy = False
        """Whether the loss is too slow to extrapolate its slopes."""
        self.has_stops = any(not stop.discrete for stop in case.trace.stops)

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """One guard around all calls of a loss that draws no random numbers."""
        return contextlib.nullcontext() if self.random else untouched_globals(self.case.seed)

    def ask(self, inputs: Inputs) -> tuple[list[_Answer], int, int]:
        """The answers, how many spots were asked, and how many were left out."""
        single = single_element(self.case, inputs)
        if single is not None:
            spots = list(element_spots(inputs, single))
        else:
            spots = list(row_spots(inputs, ROWS))
        self.calls_left = self._calls_in(BUDGET, single or inputs)
        ordinary, _ = self._differentiated((single or inputs).values)
        # One element alone may lie where the loss is flat, so the whole batch is asked as well.
        gradients = (*ordinary.gradients, *self.case.twin.gradients)
        sizes = [float(g.abs().max()) for g in gradients if g is not None and g.numel()]
        self.usual = max(sizes, default=0.0)
        answers: list[_Answer] = []
        for number, spot in enumerate(spots):
            if self.calls_left <= 0:
                return answers, number, len(spots) - number
            answers += self._at(spot)
            if sum(answer.wrong for answer in answers) >= ENOUGH:
                break
        return answers, len(spots), 0

    def _calls_in(self, seconds: float, inputs: Inputs) -> int:
        price = FORWARD_SHARE * cost(self.case, inputs) * (REPLAYED if self.has_stops else 1)
        self.heavy = price > HEAVY
        return max(FEW_CALLS if self.heavy else LEAST_CALLS, int(seconds / price))

    def is_right_at(self, inputs: Inputs) -> bool:
        """Whether the gradient is right at ordinary inputs, along one direction for each."""
        found, stops = self._differentiated(inputs.values)
        for leaf, position in enumerate(inputs.differentiable):
            gradient = found.gradient(leaf)
            x = inputs.values[position]
            along = direction(x, self.case.seed, position, 7)
            move = self._line(inputs.values, position, along, stops)
            expected = float((gradient * along).sum())
            if agrees_quickly(move, found.scalar, expected, 1.0) is not None:
                continue
            slopes = one_sided(move, found.scalar, 1.0)
            if slopes is not None and _is_outside(expected, slopes, ORDINARY):
                return False
        return True

    def _at(self, spot: Spot) -> Iterator[_Answer]:
        found, stops = self._differentiated(spot.values)
        if found.failed or found.value is None or not is_finite(found):
            return
        leaf = self.case.inputs.differentiable.index(spot.position)
        gradient = found.gradient(leaf)
        x = spot.values[spot.position]
        for along in _directions(x, spot, gradient):
            value = float((gradient * along).sum())
            move = self._line(spot.values, spot.position, along, stops)
            reach = max(1.0, float((x * along).abs().max()))
            refined = functools.partial(one_sided, move, found.scalar, reach)
            slopes = agrees_quickly(move, found.scalar, value, reach)
            if slopes is not None:
                yield _Answer(spot, along, value, slopes, False, refined)
                continue
            if self.heavy:
                continue
            if self.calls_left <= 0:
                return
            slopes = refined()
            if slopes is not None:
                wrong = _is_outside(value, slopes) and not self._is_rounding(value, slopes)
                answer = _Answer(spot, along, value, slopes, wrong, refined)
                if wrong and not slopes.is_kink and not self.case.calls:
                    # On a smooth stretch torch's own derivatives are right: this is rounding, or
                    # kinks of several operations that cancel in the value, not in the gradient.
                    self.cancelled.append(answer)
                    continue
                yield answer

    def _is_rounding(self, gradient: float, slopes: Slopes) -> bool:
        """Whether a loss that is constant here for rounding may have lost a small slope."""
        return slopes.left == slopes.right == 0.0 and abs(gradient) < CLEARLY * self.usual

    def _differentiated(self, values: Sequence[Any]) -> tuple[Evaluation, list[Stop | None] | None]:
        """The value and gradient at a point, with the stops to hold fixed around it.

        Discrete stops may move: they only choose a branch, and the other branch is what a
        one-sided derivative has to see.
        """
        self.calls_left -= 2
        found = self.case.evaluate(
            values, dtype=torch.float64, record=self.has_stops, reseed=self.random
        )
        if not self.has_stops or found.trace is None:
            return found, None
        return found, [None if stop.discrete else stop for stop in found.trace.stops]

    def _line(
        self, values: Sequence[Any], position: int, along: Tensor, stops: list[Stop | None] | None
    ) -> Along:
        """The loss along a line through a point; NaN where it raises."""

        def value(shift: float) -> float:
            point = list(values)
            point[position] = values[position] + shift * along
            self.calls_left -= 1
            found = self.case.evaluate(
                point, dtype=torch.float64, replay=stops, backward=False, reseed=self.random
            )
            return math.nan if found.failed or found.value is None else found.scalar

        return value


def _directions(x: Tensor, spot: Spot, gradient: Tensor) -> list[Tensor]:
    """One element where the loss works element by element, else some and all together."""
    if spot.index is not None:
        return [_unit(x, spot.index)]
    return [*(_unit(x, index) for index in coordinates(gradient)), torch.ones_like(x)]


def _unit(tensor: Tensor, index: int) -> Tensor:
    """The direction of one coordinate."""
    flat = torch.zeros(tensor.numel(), dtype=tensor.dtype)
    flat[index] = 1.0
    return flat.reshape(tensor.shape)


def _is_outside(gradient: float, slopes: Slopes, share: float = CLEARLY) -> bool:
    """Whether a gradient is no subgradient, by more than a share of the slope."""
    sizes = [abs(x) for x in (slopes.left, slopes.right, gradient) if math.isfinite(x)]
    scale = max(sizes, default=0.0)
    return slopes.excess(gradient) > share * scale + 4 * slopes.error + 1e-9


def _is_composed(case: Examination, wrong: Sequence[_Answer]) -> bool:
    """Whether torch's own subgradients of several operations fail to add up to one of the loss.

    Each is right by itself. With ties between whole samples (the farthest positive, the nearest
    negative) no choice adds up, and there is nothing that the loss could do about it.
    """
    return not case.calls and all(answer.spot.index is None for answer in wrong)


# ---------------------------------------------------------------------------- words
def _composed(case: Examination, wrong: Sequence[_Answer]) -> str:
    first = wrong[0]
    kink = _kink(case, first)
    what = "" if kink is None else f" (`{kink[0].strip('_')}`)"
    return (
        f"at {len(wrong)} of the special values several operations{what} have a kink at once, and "
        f"their subgradients do not add up to one of the loss: {first.gradient:.4g} when "
        f"{first.spot.words}, where it is {_range(first.slopes)}"
    )


def _finding(case: Examination, wrong: list[_Answer]) -> Finding:
    first = next((answer for answer in wrong if answer.slopes.is_kink), wrong[0])
    kink = _kink(case, first)
    location, cause = _blame(case, kink)
    slopes = first.slopes
    between = (
        f"between {slopes.low:.4g} and {slopes.high:.4g}"
        if slopes.is_kink
        else f"{slopes.right if math.isfinite(slopes.right) else slopes.left:.4g}"
    )
    return RULE.finding(
        f"the gradient is {first.gradient:.4g} where the slope is {between}, "
        f"when {first.spot.words}",
        severity=Severity.ERROR if case.calls else Severity.WARNING,
        location=location,
        cause=cause,
        evidence={
            "gradient": first.gradient,
            "slope from the left": _number(slopes.left),
            "slope from the right": _number(slopes.right),
            "special values": len(wrong),
        },
        notes=[
            f"also {answer.gradient:.4g} when {answer.spot.words}, where it is "
            f"{_range(answer.slopes)}"
            for answer in wrong
            if answer is not first
        ][:3],
        help="return a number between the two slopes there, such as the one of either side"
        if slopes.is_kink
        else "make the backward pass hold in this region, too",
    )


def _range(slopes: Slopes) -> str:
    if slopes.is_kink:
        return f"between {slopes.low:.4g} and {slopes.high:.4g}"
    return f"{slopes.right if math.isfinite(slopes.right) else slopes.left:.4g}"


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "missing"


def _cancelled(case: Examination, answers: Sequence[_Answer]) -> str | None:
    """What to say of wrong gradients at which an operation has a kink and the loss has none."""
    for answer in answers[:ENOUGH]:
        kink = _kink_at(case, answer)
        if kink is not None:
            return (
                f"the gradient is {_plain(answer.gradient)} where the slope is "
                f"{_range(answer.slopes)}, when {answer.spot.words}: `{kink[0].strip('_')}` has a "
                "kink there that the loss has not"
            )
    return None


def _kink(case: Examination, answer: _Answer) -> tuple[str, Site] | None:
    return _kink_at(case, answer) if answer.slopes.is_kink else None


def _kink_at(case: Examination, answer: _Answer) -> tuple[str, Site] | None:
    """The operation that takes another branch on either side."""
    x = answer.spot.values[answer.spot.position]
    shift = 1e-4 * max(1.0, float((x * answer.along).abs().max())) * answer.along
    points = []
    for moved in (x - shift, x + shift):
        values = list(answer.spot.values)
        values[answer.spot.position] = moved
        points.append(values)
    return kink_between(case, *points)


def _blame(case: Examination, kink: tuple[str, Site] | None) -> tuple[Location | None, str]:
    """The hand-written backward where there is one, else the operation with the kink."""
    if case.calls:
        return _backward_of(case.calls[0].cls) or case.subject.location, "backward"
    if kink is not None:
        return kink[1].location or case.subject.location, f"kink-of-{kink[0].strip('_')}"
    return case.subject.location, "gradient"


def _backward_of(cls: type[torch.autograd.Function]) -> Location | None:
    try:
        lines, first = inspect.getsourcelines(cls.backward)
        file = inspect.getsourcefile(cls.backward)
    except (OSError, TypeError):
        return None
    if file is None:
        return None
    offset = next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), 0)
    return Location.at(file, first + offset, function=f"{cls.__qualname__}.backward")


def _limit(prober: _Prober, answers: Sequence[_Answer]) -> str:
    """How much was asked, and which subgradients are used at the kinks that were met."""
    words = f"a subgradient at {len(answers)} special values"
    seen: dict[tuple[str, str], str] = {}
    kinks = [answer for answer in answers if answer.slopes.is_kink]
    for answer in kinks[:KINKS_SHOWN]:
        if prober.calls_left <= 0:
            break
        slopes = answer.refined()
        if slopes is None or not slopes.is_kink or slopes.excess(answer.gradient) > slopes.error:
            continue
        kink = _kink(prober.case, answer)
        if kink is None:
            continue
        name, site = kink[0].strip("_"), kink[1]
        where = "" if site.location is None else f" at line {site.location.line}"
        seen.setdefault(
            (name, where),
            f"`{name}`{where}: gradient {_plain(answer.gradient)} when {answer.spot.words}, "
            f"between {_plain(slopes.low)} and {_plain(slopes.high)}",
        )
    return "; ".join([words, *seen.values()])


def _plain(value: float) -> str:
    return f"{value + 0.0:.3g}"
