"""``compare``: two losses side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from lossproof.checks.agreement import (
    Evaluations,
    Pair,
    agreement,
    floating_dtype,
    gives_finite_value,
    tensors_agree,
    tolerances,
    variations,
    viewpoint,
)
from lossproof.checks.comparison import Comparison, Side
from lossproof.checks.differences import Measured, beyond, relation
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.extremes import compare_extremes
from lossproof.checks.global_state import globals_restored
from lossproof.checks.inputs import Inputs, inputs_for
from lossproof.checks.measurement import UnmeasurableError, measure_peak, measure_times
from lossproof.checks.rearrangement import compare_rearrangements
from lossproof.checks.report import Location
from lossproof.checks.subject import subject_of
from lossproof.checks.threads import threads_for
from lossproof.checks.time_limit import time_limit as limited
from lossproof.checks.time_limit import usable_limit
from lossproof.errors import TimeLimitError, UsageError
from lossproof.write.arguments import integer

Tensor = torch.Tensor
FRESH_LEAVES = (
    "each side got fresh leaves of its own: two names for one tensor would share one `.grad`, "
    "and comparing that with itself says nothing"
)


def compare(
    a: Any, b: Any, *inputs: Any, seed: int = 0, time_limit: float | None = 60.0
) -> Comparison:
    """Set two losses side by side: values, gradients, extremes, shapes, time and memory.

    Both are called on copies of the same inputs, with fresh leaves for each side, and the same
    gradient is sent backward through both. Values and gradients are compared in float64, at the
    given inputs and at others around them, so that rounding hides nothing; the user's own dtype
    decides what happens at extreme points. Nothing of the caller's is changed.

    Args:
        a: a function, an ``nn.Module`` (instance, or class that needs no arguments), or an
            ``autograd.Function`` subclass.
        b: another one.
        inputs: what both are called with, by position: tensors and other values, or specifications
            as for :func:`lossproof.check`.
        seed: makes every random choice reproducible.
        time_limit: seconds that the first call of each side, and then the comparison, may take;
            ``None`` waits. A side that is still running then is reported so.

    Returns:
        The :class:`~lossproof.checks.comparison.Comparison`. It is true if value and gradient are
        the same at ordinary points: to a relative 1e-5 and 1e-4, because another stabiliser
        (``eps=1e-8``) makes no other loss. If one side raises, that is said there, and nothing else
        is compared.

    Raises:
        UsageError: the request itself is wrong: nothing callable, a specification with a typo, or
            inputs that fit neither of the two.
        TypeError, ValueError: ``seed`` is no integer, or ``time_limit`` no number above 0.

    Example:
        >>> import torch, lossproof
        >>> def total(input, target):
        ...     return ((input - target) ** 2).sum()
        >>> comparison = lossproof.compare(total, torch.nn.MSELoss(), "float[8]", "float[8]")
        >>> comparison.same, comparison.relation
        (False, 'constant-factor')
        >>> print(comparison.differences[0])
        `total` is always 8 times (the number of samples) `MSELoss`
    """
    start = time.perf_counter()
    # The caller may be in the middle of a validation, with gradients switched off.
    integer("seed", seed)
    usable_limit(time_limit)
    with globals_restored(), torch.inference_mode(False), torch.enable_grad():
        cases, errors = _cases(a, b, inputs, seed)
        with (
            cases[0].left_as_found(),
            cases[1].left_as_found(),
            threads_for(cases[0].inputs.numel),
        ):
            sides = _sides(cases, errors, time_limit)
            found = _Comparing(cases, sides, seed)
            if all(side.error is None for side in sides):
                found.run(time_limit)
    return found.comparison(time.perf_counter() - start)


# ---------------------------------------------------------------------------- the two sides
def _cases(
    a: Any, b: Any, given: Sequence[Any], seed: int
) -> tuple[tuple[Examination, Examination], list[str | None]]:
    """Both losses with the same inputs; for each, why it cannot take them, if so."""
    subjects = (subject_of(a), subject_of(b))
    made: list[Inputs] = []
    errors: list[str | None] = []
    for subject in subjects:
        try:
            made.append(inputs_for(subject, given, seed))
            errors.append(None)
        except UsageError as error:
            errors.append(str(error))
    if not made:
        # The same text twice is a fault of the inputs themselves, such as a typo.
        raise UsageError("; ".join(dict.fromkeys(str(error) for error in errors)))
    one, two = (Examination(subject, made[0], seed) for subject in subjects)
    return (one, two), errors


def _sides(
    cases: tuple[Examination, Examination], errors: Sequence[str | None], limit: float | None
) -> tuple[Side, Side]:
    names = _names(cases)
    one, two = (
        _side(case, name, error, limit)
        for case, name, error in zip(cases, names, errors, strict=True)
    )
    if one.error is not None and two.error is not None:
        raise UsageError(
            "neither loss can be called with these inputs: "
            f"`{one.name}`: {one.error}; `{two.name}`: {two.error}"
        )
    return one, two


def _names(cases: Sequence[Examination]) -> tuple[str, str]:
    one, two = (case.subject.name for case in cases)
    return (one, two) if one != two else (f"{one} (a)", f"{two} (b)")


def _side(case: Examination, name: str, error: str | None, limit: float | None) -> Side:
    subject = case.subject
    if error is not None:
        return Side(name, subject.kind, subject.location, error=error)
    try:
        with limited(limit):
            base = case.base
    except TimeLimitError as late:
        place = Location.at(*late.location[:2]) if late.location else subject.location
        return Side(name, subject.kind, subject.location, error=str(late), error_location=place)
    trouble = _trouble(base)
    if trouble is not None:
        where = case.where(base.error) if base.error is not None else None
        return Side(name, subject.kind, subject.location, error=trouble, error_location=where)
    assert base.value is not None
    return Side(
        name,
        subject.kind,
        subject.location,
        backward_error=None if base.backward_error is None else _told(base.backward_error),
        value=float(base.value.detach().double().mean()),
        dtype=str(base.value.dtype).removeprefix("torch."),
        shape=tuple(base.value.shape),
    )


def _trouble(base: Evaluation) -> str | None:
    """Why a call gave nothing that can be compared."""
    if base.error is not None:
        return _told(base.error)
    if base.value is None:
        return f"returns {type(base.output).__name__} `{base.output!r:.60}`, which holds no tensor"
    if base.value.is_complex():
        return "returns a complex number, which is no loss"
    return None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


# ---------------------------------------------------------------------------- the comparison
class _Comparing:
    """A comparison in progress: what has been measured so far, stage by stage."""

    def __init__(
        self, cases: tuple[Examination, Examination], sides: tuple[Side, Side], seed: int
    ) -> None:
        self.a, self.b = cases
        self.sides = sides
        self.seed = seed
        self.found: dict[str, Any] = {
            "same": False,
            "relation": "error",
            "precision": self._dtype,
            "compared_as": "elements",
        }
        self.agrees = False
        self.differences: tuple[str, ...] = tuple(
            f"`{side.name}`: {side.error}" for side in sides if side.error is not None
        )
        self.notes: list[str] = [*self.a.inputs.assumptions, *_argument_notes(cases)]

    def comparison(self, seconds: float) -> Comparison:
        """What was found out."""
        return Comparison(
            *self.sides,
            inputs=tuple(str(argument) for argument in self.a.inputs.arguments),
            differences=self.differences,
            notes=tuple(self.notes),
            dtype=self._dtype,
            seed=self.seed,
            seconds=seconds,
            **self.found,
        )

    @property
    def _dtype(self) -> str:
        return _short(floating_dtype(self.a))

    def run(self, limit: float | None) -> None:
        """Measure everything; at the end of the time, keep what there is."""
        stages: list[tuple[str, Callable[[Pair], None]]] = [
            ("values and gradients", self._compare_ordinary),
            ("extreme points", self._compare_extremes),
            ("other arrangements", self._compare_rearrangements),
            ("time", self._measure_times),
            ("memory", self._measure_memory),
        ]
        done = 0
        try:
            with limited(limit):
                pair = self._pair()
                for _, stage in stages:
                    stage(pair)
                    done += 1
        except TimeLimitError:
            missing = ", ".join(name for name, _ in stages[done:])
            self.notes.append(f"the time limit of {limit:g} s ended it before: {missing}")
            if done == 0:
                self.differences = ("the time limit ended the comparison before any verdict",)

    def _pair(self) -> Pair:
        cases = (self.a, self.b)
        twins = [case.twin for case in cases]
        precision: torch.dtype | None = torch.float64
        for case, twin, side in zip(cases, twins, self.sides, strict=True):
            broken = twin.error or (twin.backward_error if not case.base.failed else None)
            if broken is not None:
                precision = None
                self.notes.append(
                    f"`{side.name}` cannot be computed in float64 ({_told(broken)}): both were "
                    f"compared in {self._dtype}"
                )
        used = twins if precision else [case.base for case in cases]
        view = viewpoint(*(found.value.detach() for found in used if found.value is not None))
        self.notes += [FRESH_LEAVES, *_ways_backward(self.sides), *self._random()]
        return Pair(*cases, view, precision, self._leaves())

    def _leaves(self) -> tuple[tuple[str, int, int], ...]:
        """Inputs, and parameters that both have under one name and in one shape."""
        names = [list(case.leaf_names) for case in (self.a, self.b)]
        given = len(self.a.inputs.differentiable)
        found = [(names[0][leaf], leaf, leaf) for leaf in range(given)]
        left = []
        for i in range(given, len(names[0])):
            name = names[0][i]
            j = names[1].index(name, given) if name in names[1][given:] else None
            if j is not None and self.a.base.leaves[i].shape == self.b.base.leaves[j].shape:
                found.append((name, i, j))
            else:
                left.append(name)
        shared = {name for name, _, _ in found}
        left += [name for name in names[1][given:] if name not in shared]
        if left:
            shown = ", ".join(f"`{name}`" for name in dict.fromkeys(left))
            self.notes.append(f"only one of the two has {shown}: gradients there were not compared")
        return tuple(found)

    def _random(self) -> list[str]:
        drawing = [
            f"`{side.name}`"
            for side, case in zip(self.sides, (self.a, self.b), strict=True)
            if case.trace.random
        ]
        if not drawing:
            return []
        return [f"{' and '.join(drawing)} used random numbers: each call began from one seed"]

    # ------------------------------------------------------------------ stages
    def _compare_ordinary(self, pair: Pair) -> None:
        evaluated = self._ordinary_points(pair)
        allowed = tolerances(pair.dtype)[0]
        value = agreement(pair.view.value(self.a.base), pair.view.value(self.b.base), allowed)
        self.sides = self._completed_sides(pair)
        measured = Measured(
            *self.sides,
            compared_as=pair.view.reduction,
            dtype=self._dtype,
            value=value,
            points=tuple(pair.point(found) for found in evaluated),
            gradients=tuple(g for g in map(pair.gradients, evaluated) if g),
            counts=_counts(self.a.inputs),
        )
        self.agrees = measured.agrees
        word, self.differences = relation(measured)
        self.found.update(
            same=measured.same,
            relation=word,
            precision=_short(pair.precision or pair.dtype),
            compared_as=pair.view.reduction,
            value=value,
            points=measured.points,
            gradients=pair.gradients(pair.base),
        )
        if pair.precision is not None:
            one, two = (pair.view.value(side) for side in pair.base)
            self.found["value64"] = agreement(one, two, pair.allowed[0])

    def _ordinary_points(self, pair: Pair) -> list[Evaluations]:
        """Both at each ordinary point where at least one gives a finite value."""
        kept = []
        for number, values in enumerate(variations(self.a)):
            found = pair.base if number == 0 else pair.evaluate(values)
            raised = [f"`{s.name}`" for s, e in zip(self.sides, found, strict=True) if e.error]
            if raised:
                self.notes.append(f"{' and '.join(raised)} raised at an ordinary point: left out")
            elif any(map(gives_finite_value, found)):
                kept.append(found)
        return kept

    def _completed_sides(self, pair: Pair) -> tuple[Side, Side]:
        """The sides with what only the pair tells: float64 values, and a larger upstream."""
        tripled = pair.evaluate(upstream=lambda value: 3 * pair.view.upstream(value))
        sides = []
        for number, side in enumerate(self.sides):
            once, thrice = pair.base[number], tripled[number]
            value = once.value if pair.precision is not None else None
            sides.append(
                replace(
                    side,
                    value64=None if value is None else float(value.detach().double().mean()),
                    follows_upstream=_follows(
                        once, thrice, [leaf[number] for _, *leaf in pair.leaves]
                    ),
                )
            )
        return sides[0], sides[1]

    def _compare_extremes(self, pair: Pair) -> None:
        small = self._small(pair)
        self.found["extremes"] = compare_extremes(small, self.agrees)
        self._add_differences()

    def _small(self, pair: Pair) -> Pair:
        """The pair on fewer samples, where there are many and both can do with fewer."""
        inputs = self.a.small
        if inputs is self.a.inputs:
            return pair
        cases = tuple(Examination(case.subject, inputs, self.seed) for case in (self.a, self.b))
        small = Pair(cases[0], cases[1], pair.view, pair.precision, pair.leaves)
        if any(found.failed for found in small.base):
            return pair
        self.notes.append("extreme points were tried with fewer samples, the first of those given")
        return small

    def _compare_rearrangements(self, pair: Pair) -> None:
        self.found["rearrangements"] = compare_rearrangements(pair)
        self._add_differences()

    def _add_differences(self) -> None:
        extremes = self.found.get("extremes", ())
        arrangements = self.found.get("rearrangements", ())
        texts = beyond(*self.sides, extremes, arrangements)
        self.differences = tuple(dict.fromkeys((*self.differences, *texts)))

    def _measure_times(self, pair: Pair) -> None:
        with self._measurable("time"):
            self.found["times"] = measure_times(pair.a, pair.b)

    def _measure_memory(self, pair: Pair) -> None:
        with self._measurable("memory"):
            peaks = measure_peak(pair.a), measure_peak(pair.b)
            one, two = self.sides
            self.sides = (
                replace(one, peak_bytes=peaks[0]),
                replace(two, peak_bytes=peaks[1]),
            )

    @contextlib.contextmanager
    def _measurable(self, what: str) -> Iterator[None]:
        try:
            yield
        except UnmeasurableError as error:
            self.notes.append(f"{what} was not measured: {error}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _follows(once: Evaluation, thrice: Evaluation, leaves: Sequence[int]) -> bool | None:
    """Whether the gradient is linear in what is sent backward; ``None`` where there is none."""
    if once.failed or thrice.failed or all(once.gradients[leaf] is None for leaf in leaves):
        return None
    return all(tensors_agree(thrice.gradient(leaf), 3 * once.gradient(leaf)) for leaf in leaves)


def _counts(inputs: Inputs) -> tuple[tuple[int, str], ...]:
    """Sizes that a loss may have divided by, or forgotten to."""
    for position in inputs.differentiable:
        value: Tensor = inputs.values[position]
        if value.dim() > 0:
            return (
                (value.shape[0], "the number of samples"),
                (value.numel(), "the number of elements"),
                (value.shape[-1], "the size of the last axis"),
            )
    return ()


def _ways_backward(sides: Sequence[Side]) -> list[str]:
    """How to differentiate a result that is no single number."""
    return [
        f"`{side.name}` returns {side.result}, for which `loss.backward()` raises: send it "
        "backward with `loss.backward(gradient=torch.ones_like(loss))`, the gradient of its sum, "
        "or with a weight for each element in place of the ones"
        for side in sides
        if side.elements != 1
    ]


def _argument_notes(cases: tuple[Examination, Examination]) -> list[str]:
    """A warning where both sides name the same arguments in another order."""
    count = len(cases[0].inputs.arguments)
    one, two = (case.subject.parameter_names[:count] for case in cases)
    if one == two or sorted(one) != sorted(two):
        return []
    return [
        f"the two name their inputs in another order, ({', '.join(one)}) and ({', '.join(two)}): "
        "both were called by position"
    ]
