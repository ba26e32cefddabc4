"""The value and the gradient of a loss at every special point, measured once for several rules.

Each point is called in the user's own floating type and in float64. Where both are non-finite the
mathematics is at fault, where only the narrower is, the way it was written down. A ladder of
magnitudes is climbed only when its top fails.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lossproof.checks.examination import SLOW, Evaluation, Examination, _fewer_rows
from lossproof.checks.global_state import untouched_globals
from lossproof.checks.inputs import Inputs
from lossproof.checks.ladders import Ladder, ladders
from lossproof.checks.moved_inputs import SpecialPoint
from lossproof.checks.nonfinite import (
    Culprit,
    Mark,
    find_culprit,
    innocent_marks,
    is_finite,
)
from lossproof.checks.special_points import asked_points, exact_points

Tensor = torch.Tensor

NOTE = "special points"
"""The key under which the survey is kept among the notes of an examination."""

BUDGET = 1.5
"""Seconds that the calls of a survey may take, by an estimate that no machine's load changes."""
SECONDS_PER_OPERATION = 2e-5
HEAVY = 4.0
"""How many times longer than counted a call may take before it is timed."""
SECONDS_PER_ELEMENT = 2e-9
OVERHEAD = 1e-3
"""Seconds that the check adds to a call on a slow machine: seeds, settings, copies."""
LOCATED = 24
"""At so many failing points at most the culprit is looked for; others share its fate."""
CALLS_TO_LOCATE = 12
"""How many plain calls a watched one costs."""
HALVINGS = 6


@dataclass(frozen=True)
class Failure:
    """A special point at which the loss is not finite, and what made it so."""

    point: SpecialPoint
    culprit: Culprit | None
    value: float
    """What the loss gave in the type it failed in."""
    truth: float
    """What it gives in float64."""
    gradient_only: bool
    """Whether the value is finite and only a gradient is not."""
    size: float | None = None
    """The magnitude at which it fails, on a ladder."""
    remote: bool = False
    dtype: torch.dtype = torch.float64


@dataclass
class Survey:
    """What was measured at the special points."""

    dtype: torch.dtype = torch.float32
    """The type that was compared with float64."""
    undefined: list[Failure] = field(default_factory=list)
    """Failures at exact points. Rounding may hide one from float64, whose failures come first."""
    overflows: list[Failure] = field(default_factory=list)
    """Failures of the narrower type at large magnitudes where float64 is finite."""
    poles: list[SpecialPoint] = field(default_factory=list)
    """Points at which the loss goes to minus infinity."""
    points: int = 0
    """Exact points that were called."""
    rungs: int = 0
    """Calls on ladders."""
    refused: int = 0
    """Points at which the loss raised an exception."""
    left_out: int = 0
    """Points and ladders left out because the loss is slow."""
    biggest: float = 0.0
    """The largest magnitude that was reached."""
    given: bool = True
    """Whether the loss is finite at the inputs it was given."""


def survey(case: Examination) -> Survey | None:
    """Measure the loss at its special points; ``None`` where it cannot be called at all."""
    if NOTE not in case.notes:
        case.notes[NOTE] = _measure(case)
    found: Survey | None = case.notes[NOTE]
    return found


def _measure(case: Examination) -> Survey | None:
    base = case.base
    if base.error is not None or base.value is None or not base.value.is_floating_point():
        return None
    probe = Probe(case)
    if not probe.given_is_finite():
        return probe.survey
    with probe.quiet():
        probe.exact()
        probe.climb()
    return probe.survey


def narrow_type(inputs: Inputs) -> torch.dtype:
    """The floating type that the loss will be trained in: that of its inputs, at most float32."""
    kinds = [inputs.values[i].dtype for i in inputs.differentiable]
    for dtype in (torch.float16, torch.bfloat16):
        if dtype in kinds:
            return dtype
    return torch.float32


def is_representable(found: Evaluation, dtype: torch.dtype) -> bool:
    """Whether a float64 result has room in ``dtype``, with some left for the sums inside."""
    limit = torch.finfo(dtype).max * (1 / 64 if dtype is torch.float16 else 1e-6)
    parts = [found.value, *found.gradients]
    return all(part is None or float(_peak(part)) < limit for part in parts)


def _peak(part: Tensor) -> float:
    return float(part.detach().abs().max()) if part.numel() else 0.0


def probing_inputs(case: Examination) -> Inputs:
    """The inputs that special points are made of: few rows where the loss is slow."""
    inputs = case.small
    if cost(case, inputs) <= BUDGET / 200:
        return inputs
    for rows in (4, 2):
        cut = _fewer_rows(inputs, rows)
        if cut is not None:
            tried = case.evaluate(cut.values)
            if not tried.failed and tried.value is not None and is_finite(tried):
                return cut
    return inputs


def cost(case: Examination, inputs: Inputs) -> float:
    """About how many seconds one call with its gradient takes.

    Counted, not timed, so that a check of an ordinary loss looks at the same points on any machine;
    timed where the count is far too low (a convolution with a large kernel is one operation).
    """
    # A function of torch may be many operations; the graph's nodes show them.
    operations = max(len(case.trace.operations), len(case.trace.nodes)) + 4
    share = max(inputs.numel / max(case.inputs.numel, 1), 0.25)
    counted = operations * (SECONDS_PER_OPERATION + SECONDS_PER_ELEMENT * inputs.numel) * share
    timed = _processor_seconds(case) * share
    return timed if timed > HEAVY * (counted + OVERHEAD * share) else counted


def _processor_seconds(case: Examination) -> float:
    """What one call takes of the processor: other programs' load does not count."""
    if "processor seconds" not in case.notes:
        times: list[float] = []
        while len(times) < 2 and min(times, default=0.0) < SLOW:
            start = time.process_time()
            case.evaluate(dtype=torch.float64)
            times.append(time.process_time() - start)
        case.notes["processor seconds"] = min(times)
    seconds: float = case.notes["processor seconds"]
    return seconds


class Probe:
    """Calls one loss at its special points."""

    def __init__(self, case: Examination) -> None:
        self.case = case
        self.inputs = probing_inputs(case)
        self.survey = Survey(narrow_type(self.inputs))
        self.calls_left = max(24, int(BUDGET / cost(case, self.inputs)))
        self.located = 0
        self.reseed = bool(case.trace.random)

    # ------------------------------------------------------------------ calling
    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """One guard around all calls of a loss that draws no random numbers."""
        if self.reseed:
            yield
            return
        with untouched_globals(self.case.seed):
            yield

    def call(self, values: Sequence[Any], dtype: torch.dtype) -> Evaluation:
        """The loss and its gradient in one floating type."""
        self.calls_left -= 1
        own = self.survey.dtype is dtype and self._is_own_type
        return self.case.evaluate(values, dtype=None if own else dtype, reseed=self.reseed)

    @functools.cached_property
    def _is_own_type(self) -> bool:
        """Whether the narrow type is that of every floating input, so that no cast is needed."""
        return all(
            value.dtype is self.survey.dtype
            for value in self.inputs.values
            if isinstance(value, Tensor) and value.is_floating_point()
        )

    @functools.cached_property
    def innocent(self) -> frozenset[Mark]:
        """Operations that make infinities at the given inputs, which the loss deals with."""
        return innocent_marks(self.case)

    def failure(
        self,
        point: SpecialPoint,
        dtype: torch.dtype,
        found: Evaluation,
        truth: Evaluation,
        size: float | None = None,
        remote: bool = False,
    ) -> Failure:
        """A failure with its culprit."""
        culprit = None
        if self.located < LOCATED and (self.located == 0 or self.calls_left > 0):
            self.located += 1
            self.calls_left -= CALLS_TO_LOCATE
            culprit = find_culprit(self.case, point.values, dtype=dtype, innocent=self.innocent)
        # A loss that refuses a NaN by an exception has no value.
        value = math.nan if found.value is None else _total(found.value)
        true = math.nan if truth.value is None else _total(truth.value)
        return Failure(point, culprit, value, true, math.isfinite(value), size, remote, dtype)

    # ------------------------------------------------------------------ the given inputs
    def given_is_finite(self) -> bool:
        """Whether the loss is finite at the given inputs; if not, that is the finding."""
        base, twin = self.case.base, self.case.twin
        if base.failed or is_finite(base):
            return True
        point = SpecialPoint(self.case.inputs.values, "it is called with the given inputs")
        self.survey.given = False
        if twin.error is not None or twin.value is None or not is_finite(twin):
            truth = base if twin.value is None else twin
            self.survey.undefined.append(self.failure(point, torch.float64, truth, truth))
        elif is_representable(twin, self.survey.dtype):
            self.survey.overflows.append(self.failure(point, self.survey.dtype, base, twin))
        return False

    # ------------------------------------------------------------------ exact points
    def exact(self) -> None:
        """Call the loss at every exactly special point."""
        points = [*exact_points(self.inputs), *asked_points(self.inputs, _levels(self.case))]
        reserve = self.calls_left // 3
        for number, point in enumerate(points):
            if self.calls_left <= reserve:
                self.survey.left_out += len(points) - number
                return
            self._exact(point)

    def _exact(self, point: SpecialPoint) -> None:
        truth = self.call(point.values, torch.float64)
        if truth.failed or truth.value is None:
            self.survey.refused += 1
            return
        self.survey.points += 1
        if not is_finite(truth):
            if _total(truth.value) == -math.inf:
                self.survey.poles.append(point)
                return
            blamed, found = self._simplest(point, truth)
            self.survey.undefined.append(self.failure(blamed, torch.float64, found, found))
            return
        narrow = self.call(point.values, self.survey.dtype)
        if narrow.failed or narrow.value is None or is_finite(narrow):
            return
        if is_representable(truth, self.survey.dtype):
            self.survey.undefined.append(self.failure(point, self.survey.dtype, narrow, truth))

    def _simplest(self, point: SpecialPoint, found: Evaluation) -> tuple[SpecialPoint, Evaluation]:
        """The part of a point that fails by itself; the point where none does."""
        for part in point.parts:
            tried = self.call(part.values, torch.float64)
            if not tried.failed and tried.value is not None and not is_finite(tried):
                return part, tried
        return point, found

    # ------------------------------------------------------------------ ladders
    def climb(self) -> None:
        """Look at the top of every ladder, and climb those that fail there."""
        known = ladders(self.inputs)
        for number, ladder in enumerate(known):
            if self.calls_left <= 0:
                self.survey.left_out += len(known) - number
                return
            if any(self._fails(ladder.point(size)) for size in _tops(ladder)):
                self._climb(ladder)

    def _fails(self, point: SpecialPoint) -> bool:
        found = self.call(point.values, self.survey.dtype)
        self.survey.rungs += 1
        return found.failed or found.value is None or not is_finite(found)

    def _climb(self, ladder: Ladder) -> None:
        below = 0.0
        for size in ladder.sizes:
            verdict = self._rung(ladder, size)
            if verdict == "float64 fails":
                self._between(ladder, below or size / 4, size)
            if verdict in ("float64 fails", "found", "raises"):
                return
            below = size
            self.survey.biggest = max(self.survey.biggest, size)

    def _rung(self, ladder: Ladder, size: float) -> str:
        point = ladder.point(size)
        narrow = self.call(point.values, self.survey.dtype)
        if not narrow.failed and is_finite(narrow):
            return "finite"
        truth = self.call(point.values, torch.float64)
        if truth.failed or truth.value is None or not is_finite(truth):
            return "float64 fails"
        if not is_representable(truth, self.survey.dtype):
            return "inherent"
        if size > ladder.natural and math.isfinite(_value_of(narrow)):
            return "inherent"
        remote = size > ladder.remote
        failure = self.failure(point, self.survey.dtype, narrow, truth, size, remote)
        if narrow.failed and failure.culprit is None:
            return "raises"  # not because of a number that is not finite
        self.survey.overflows.append(failure)
        return "found"

    def _between(self, ladder: Ladder, low: float, high: float) -> None:
        """Look between two rungs for a magnitude at which only the narrow type fails."""
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            verdict = self._rung(ladder, float(f"{middle:.2g}"))
            if verdict == "found":
                return
            if verdict == "finite":
                low = middle
            else:
                high = middle


_COMPARISONS = frozenset({"gt", "ge", "lt", "le", "__gt__", "__ge__", "__lt__", "__le__"})


def _levels(case: Examination) -> dict[int, list[float]]:
    """The numbers that the loss compares each of its inputs with."""
    levels: dict[int, list[float]] = {}
    for operation in case.trace.operations:
        if operation.name in _COMPARISONS and len(operation.args) > 1 and operation.inside is None:
            level = operation.args[1]
            for position, given in enumerate(case.base.passed):
                if given is operation.args[0] and isinstance(level, (int, float)):
                    known = levels.setdefault(position, [])
                    if level not in known:
                        known.append(float(level))
    return levels


def _tops(ladder: Ladder) -> tuple[float, ...]:
    """The rungs to look at first: failures at large magnitudes rarely go away again."""
    sizes = ladder.sizes
    return sizes[-1], sizes[len(sizes) // 2]


def _value_of(found: Evaluation) -> float:
    return math.nan if found.value is None else _total(found.value)


def _total(value: Tensor) -> float:
    return float(value.detach().double().sum())
