"""Measures the charts of a report, when somebody wants to see them.

The check itself stays cheap: it only keeps what is needed to measure later, which is a copy of the
inputs (cut down where they are large). Nothing that the caller does with the inputs afterwards,
such as a step of training, changes the charts.
"""

from __future__ import annotations

import contextlib
import functools
import math
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lossproof.checks.accuracy import Accuracy, accuracy
from lossproof.checks.chart import Chart, LineChart, Number, Series, Unmeasured
from lossproof.checks.curves import curves
from lossproof.checks.examination import Examination, _fewer_rows, fresh_copy
from lossproof.checks.global_state import globals_restored
from lossproof.checks.gradient_map import gradient_map
from lossproof.checks.inputs import Inputs
from lossproof.checks.silence import Nowhere
from lossproof.checks.threads import threads_for
from lossproof.checks.time_limit import time_limit
from lossproof.errors import TimeLimitError

Measure = Callable[[], tuple[Chart, ...]]
TYPES = torch.float32, torch.bfloat16, torch.float16
"""The types whose accuracy is measured."""
CALLS, FEWEST = 100, 14
"""About how many calls it takes to measure one, and how many at least."""
KEPT = 1 << 20
"""Of inputs with more elements only a few rows are kept for the charts."""
ROWS = 8
PATIENCE = 5.0
"""Seconds after which measuring is given up; it is planned to take about one."""
CRASH = "LP408"
EXACT = 1e-9
"""Zero has no place on a logarithmic axis: errors below this are drawn here."""


def charts_later(case: Examination, codes: Collection[str]) -> Measure | None:
    """What measures the charts of a finished check; ``None`` where there is nothing to measure.

    Args:
        case: the check.
        codes: the codes of what it found.
    """
    if CRASH in codes or "base" not in vars(case):  # it never came to an end
        return None
    if case.base.failed or case.base.value is None:
        return None
    value = case.base.value
    kept = _kept(case.inputs)
    if kept is None or not value.is_floating_point():
        return None
    subject, seed, reference = case.subject, case.seed, case.reference
    elements = case.inputs.numel

    @functools.cache
    def measure() -> tuple[Chart, ...]:
        case = Examination(subject, kept, seed, reference)
        with _undisturbed(), case.left_as_found(), threads_for(kept.numel):
            return _measured(case, codes, elements)

    return measure


def _kept(inputs: Inputs) -> Inputs | None:
    """A copy of the inputs, of the first rows alone where they are large."""
    cut: Inputs | None = inputs
    if inputs.numel > KEPT:
        cut = _fewer_rows(inputs, ROWS)
    if cut is None or cut.numel > KEPT:
        return None
    return cut.with_values([fresh_copy(value) for value in cut.values])


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Whatever the caller is in the middle of; what the loss prints was printed by the check."""
    nowhere = contextlib.redirect_stdout(Nowhere())
    with globals_restored(), torch.inference_mode(False), torch.enable_grad(), nowhere:
        yield


def _measured(whole: Examination, codes: Collection[str], elements: int) -> tuple[Chart, ...]:
    charts: list[Chart] = []
    try:
        with time_limit(PATIENCE):
            case = Examination(whole.subject, whole.small, whole.seed, whole.reference)
            if case.base.failed or case.base.value is None:
                return (Unmeasured("Charts", "the loss refuses the few rows that were kept"),)
            for title, make in (
                ("Value and derivative", lambda: curves(case, "LP201" not in codes)),
                ("Where the gradient is wrong", lambda: _present(gradient_map(case, codes))),
                ("Accuracy", lambda: accuracy_charts(case)),
            ):
                cut = case.inputs.numel < elements
                charts += [_of_few_rows(c) if cut else c for c in _guarded(title, make)]
    except TimeLimitError:
        charts.append(Unmeasured("More charts", f"measuring them took more than {PATIENCE:g} s"))
    return tuple(charts)


def _of_few_rows(chart: Chart) -> Chart:
    """The chart with a word on the inputs it was measured on."""
    if isinstance(chart, Unmeasured):
        return chart
    return replace(chart, caption=f"{chart.caption} Measured on the first rows of the inputs.")


def _present(chart: Chart | None) -> tuple[Chart, ...]:
    return () if chart is None else (chart,)


def _guarded(title: str, make: Callable[[], Iterable[Chart]]) -> list[Chart]:
    """A fault of ours must not take the report away; it is told, not hidden."""
    try:
        return list(make())
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        why = f"lossproof itself failed here ({type(error).__name__}: {error}; {where})"
        return [Unmeasured(title, f"{why}; please report it")]


# ---------------------------------------------------------------------------- accuracy
def accuracy_charts(case: Examination) -> tuple[Chart, ...]:
    """The relative error of value and gradient against the magnitude of the inputs."""
    if not case.affordable(FEWEST):
        return (Unmeasured("Accuracy", f"one call of the loss takes {case.call_seconds:.2g} s"),)
    measured: list[Accuracy] = []
    for narrow in TYPES if case.affordable(CALLS * len(TYPES)) else TYPES[:1]:
        if not case.evaluate(dtype=narrow).failed:  # not every operation exists in half precision
            measured += accuracy(case, narrow)
    if not measured:
        return (
            Unmeasured(
                "Accuracy",
                "no input has a magnitude to raise, or float64 gives nothing to compare with",
            ),
        )
    return tuple(
        LineChart(
            f"Accuracy of the {what}",
            "magnitude of the inputs",
            "relative error",
            series := _by_type(measured, column),
            f"{_named(series)} against the same loss computed in float64: an error of 1 means "
            "that no digit is right." + _not_finite(series),
            "log",
            "log",
            (EXACT, 1.0),
        )
        for column, what in ((2, "value"), (3, "gradient"))
    )


def _named(series: Sequence[Series]) -> str:
    return ", ".join(one.label for one in series)


def _by_type(measured: Sequence[Accuracy], column: int) -> tuple[Series, ...]:
    """One curve for each floating type."""
    names = dict.fromkeys(row[1] for row in measured)
    found = []
    for name in names:
        rows = sorted((row for row in measured if row[1] == name), key=lambda row: row[0])
        errors = tuple(_drawable(float(row[column])) for row in rows)
        found.append(Series(name, tuple(float(row[0]) for row in rows), errors))
    return tuple(found)


def _drawable(error: float) -> Number:
    return max(error, EXACT) if math.isfinite(error) else None


def _not_finite(series: Iterable[Series]) -> str:
    """From which magnitude on each type gives infinity or NaN."""
    words = []
    for one in series:
        gone = [x for x, y in zip(one.x, one.y, strict=True) if y is None]
        if gone:
            words.append(f"{one.label} at {', '.join(f'{x:g}' for x in gone[:3])}")
            words[-1] += ", ..." if len(gone) > 3 else ""
    return f" Not finite: {'; '.join(words)}." if words else ""
