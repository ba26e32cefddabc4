"""A batch in which nothing counts, or only one class occurs, breaks the loss.

## What it does

Calls the loss on the degenerate batches that training meets: everything masked or ignored, no
events, no positives, no negatives, one class, no matches, targets that are all the same, one
sample. It wants a finite value and finite gradients that are connected to the graph, and reports a
division by a count that is 0, an exception, and a constant that is returned without a graph.

## Why it matters

Sooner or later a batch holds no positive example. One division by a count of 0 makes every weight
NaN; an early `return torch.tensor(0.0)` makes `backward()` raise after hours of training.

## Example

```python
def masked_mse(prediction, target, mask):
    return ((prediction - target) ** 2 * mask).sum() / mask.sum()  # 0 / 0 if nothing counts
```

## Use instead

```python
def masked_mse(prediction, target, mask):
    return ((prediction - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)
```

## Not reported

- What torch's own functions do by their definition: `F.cross_entropy` is NaN when every label is
  ignored, and the `mean()` of an empty selection is NaN. It is told among what is unproved, unless
  a reference was given that is finite for the same batch.
- Batches that the inputs show to be rarer than one in a million, and values that they never show.
- Masks that tell the length of sequences, each of which has at least one element.
- A batch without samples, but for a loss that returns a constant for it. A loss that calls
  `torch.pdist` is not asked: torch's backward pass of it would end the process.
- An empty list of indices without what belongs to it: boxes go with their labels, and a graph's
  two rows of edges stay two.
- A loss that says in words (`raise`, `assert`) that it cannot use such a batch, a matrix without an
  inverse, and an ignored label that is used as a position.
- A line that LP301 or LP302 reports.
- One sample in a loss that compares the samples of a batch with each other.
"""

from __future__ import annotations

import linecache
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

import torch

from lossproof.checks.batch import batch_of
from lossproof.checks.degenerate import DegenerateBatch, degenerate_batches
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.mends import mend
from lossproof.checks.nonfinite import Culprit, find_culprit, innocent_marks, is_finite
from lossproof.checks.report import Finding, Location, Number
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import is_machinery
from lossproof.checks.survey import NOTE, Survey

RULE = RULES["LP304"]
_Place = tuple[str, int] | None

FEW = 4
"""So many batches are tried where the loss is slow."""
# Reductions that are NaN for nothing by torch's convention.
_OF_NOTHING = frozenset({"mean", "std", "var", "std_mean", "var_mean", "median", "nanmean"})
_TORCH_LOSSES = ("loss", "cross_entropy", "ctc")


@dataclass(frozen=True)
class _Broken:
    """What a degenerate batch did to the loss."""

    batch: DegenerateBatch
    how: str
    cause: str
    location: Location | None
    help: str | None
    value: float | None = None


def examine(case: Examination) -> Iterable[Verdict]:
    """Try every degenerate batch once."""
    base = case.base
    if base.value is None or not base.value.is_floating_point() or not is_finite(base):
        yield RULE.unproved("the loss is not finite at the given inputs")
        return
    batches = degenerate_batches(case)
    if not batches:
        yield RULE.not_applicable(
            "the inputs hold no mask, labels, matches or samples to go without"
        )
        return
    broken: list[_Broken] = []
    told: list[str] = []
    survived = 0
    tried = len(batches) if case.affordable(len(batches)) else FEW
    for batch in batches[:tried]:
        found = case.evaluate(batch.values)
        fault = _fault(case, batch, found) or _beside_reference(case, batch, found)
        if fault is not None:
            broken.append(fault)
        elif found.failed or found.value is None or not is_finite(found):
            told += _told(case, batch, found)
        else:
            survived += 1
    known = _reported(case)
    for place, faults in _by_place(broken).items():
        if place not in known:
            yield _finding(case, faults)
    for words in dict.fromkeys(told):
        yield RULE.unproved(words)
    if not broken:
        yield RULE.proved(f"finite and connected to the graph for {survived} degenerate batches")
    if tried < len(batches):
        yield RULE.unproved(
            f"{len(batches) - tried} batches were left out because the loss is slow"
        )


# ---------------------------------------------------------------------------- judging
def _fault(case: Examination, batch: DegenerateBatch, found: Evaluation) -> _Broken | None:
    if found.error is not None or found.backward_error is not None:
        return _exception(case, batch, found)
    if found.value is None:
        return None
    if not is_finite(found):
        return _nonfinite(case, batch, found)
    wanted = case.base.value is not None and case.base.value.requires_grad
    if wanted and not found.value.requires_grad and bool(torch.isfinite(found.value).all()):
        return _constant(case, batch, found)
    return None


def _exception(case: Examination, batch: DegenerateBatch, found: Evaluation) -> _Broken | None:
    """An exception at a line of the user's own that was not meant to be raised."""
    error = found.error or found.backward_error
    assert error is not None
    place = case.subject.sources.of_exception(error)
    if batch.kind == "no samples" or place is None or not _is_accident(error, place):
        return None
    if batch.kind == "one sample" and _compares_samples(case):
        return None
    if _is_stated(error, batch):
        return None
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    division = isinstance(error, ZeroDivisionError)
    mended = "divide by `max(count, 1)`" if division else None
    if batch.kind == "one sample":
        mended = "name the axis where one is taken away: `squeeze()` also takes that of the batch"
    cause = "zero-division" if division else "exception"
    return _Broken(batch, f"`{what}` is raised", cause, place, mended)


def _is_stated(error: Exception, batch: DegenerateBatch) -> bool:
    """Whether the exception says clearly what cannot be done with such a batch.

    A matrix has no inverse; a label that no inputs showed, the default of an option that was left
    alone, is no position.
    """
    if "LinAlgError" in type(error).__name__:
        return True
    return batch.kind == "nothing counts" and "ind" in str(error) and "out of" in str(error)


def _is_accident(error: Exception, place: Location) -> bool:
    """Whether the innermost Python frame is the user's own, at no ``raise`` and no ``assert``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = trace.tb_frame.f_code.co_filename
    text = linecache.getline(file, trace.tb_lineno).strip()
    return file == place.file and not text.startswith(("raise", "assert"))


def _compares_samples(case: Examination) -> bool:
    """Whether what one sample adds to the loss depends on which others are in the batch.

    Where each adds a value of its own, exchanging the second of two samples changes the loss by
    the same amount whatever the first one is. A loss that is flat at all of these says nothing.
    """
    batch = batch_of(case)
    if batch is None or batch.size < 4:
        return True
    totals = []
    for pair in ([0, 1], [2, 3], [0, 3], [2, 1]):
        values = batch.rows(case.small.values, pair)
        found = case.evaluate(values, dtype=torch.float64, backward=False)
        if found.error is not None or found.value is None:
            return True
        totals.append(float(found.value.detach().double().mean()))
    gap = totals[0] + totals[1] - totals[2] - totals[3]
    size = max(map(abs, totals))
    return not abs(gap) <= 1e-9 * size or max(totals) - min(totals) <= 1e-9 * size


def _nonfinite(case: Examination, batch: DegenerateBatch, found: Evaluation) -> _Broken | None:
    if batch.kind in ("one sample", "no samples"):
        return None
    culprit = find_culprit(case, batch.values, innocent=innocent_marks(case))
    if culprit is None or not _is_own(case, culprit):
        return None
    assert found.value is not None
    value = float(found.value.detach().double().sum())
    text = culprit.text or culprit.operation
    how = f"`{text}` is {culprit.produced}"
    if culprit.phase == "backward":
        how = f"the derivative of `{text}` is {culprit.produced}"
    help_ = "divide by `count.clamp(min=1)`" if culprit.operation == "div" else mend(culprit)
    return _Broken(
        batch, how, f"{culprit.operation}-{culprit.phase}", culprit.location, help_, value
    )


def _beside_reference(
    case: Examination, batch: DegenerateBatch, found: Evaluation
) -> _Broken | None:
    """What no definition of torch's excuses: the reference is finite for the same batch."""
    failed = found.failed or found.value is None
    if case.reference is None or failed or is_finite(found) or batch.kind == "no samples":
        return None
    other = case.evaluate(batch.values, subject=case.reference)
    if other.failed or other.value is None or not is_finite(other):
        return None
    culprit = find_culprit(case, batch.values, innocent=innocent_marks(case))
    what = "the loss" if culprit is None else f"`{culprit.text or culprit.operation}`"
    assert found.value is not None
    return _Broken(
        batch,
        f"{what} is not finite, and the reference is,",
        "beside-reference",
        None if culprit is None else culprit.location,
        None if culprit is None else mend(culprit),
        float(found.value.detach().double().sum()),
    )


def _is_own(case: Examination, culprit: Culprit) -> bool:
    """Whether the operation was written by the user, and is no definition of torch's."""
    place = culprit.location
    if place is None or is_machinery(place.file) or not case.subject.sources.owns(place.file):
        return False
    torchs = any(part in culprit.operation for part in _TORCH_LOSSES)
    return not torchs and culprit.operation not in _OF_NOTHING


def _constant(case: Examination, batch: DegenerateBatch, found: Evaluation) -> _Broken | None:
    location = _made_at(case.evaluate(batch.values, record=True, backward=False))
    # Without samples a loop is not entered; only where that is returned early was it thought of.
    early = location is not None and (location.source or "").strip().startswith("return")
    if batch.kind == "no samples" and (not early or location == _made_at(case.base)):
        return None
    location = location or _returned_at(case, batch)
    assert found.value is not None
    help_ = "return a zero that hangs on the prediction: `prediction.sum() * 0.0`"
    value = float(found.value.detach().double().sum())
    return _Broken(
        batch, "a constant without a graph is returned, so `backward()` raises",
        "constant", location, help_, value,
    )  # fmt: skip


def _made_at(found: Evaluation) -> Location | None:
    """Where the value of a recorded call was made."""
    if found.trace is None or found.value is None:
        return None
    made = found.trace.results.get(id(found.value))
    return made[0].site.location if made is not None else None


def _returned_at(case: Examination, batch: DegenerateBatch) -> Location | None:
    """The line at which the loss ended, for a number that no operation made."""
    places: list[Location] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "return" and case.subject.sources.owns(file):
            places.append(Location.at(file, frame.f_lineno, function=frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        case.evaluate(batch.values, backward=False)
    finally:
        sys.setprofile(before)
    return places[-1] if places else None


def _told(case: Examination, batch: DegenerateBatch, found: Evaluation) -> list[str]:
    """What is no finding, but worth knowing."""
    if batch.kind in ("one sample", "no samples"):
        return []
    if found.failed or found.value is None:
        return [f"the loss refuses the batch when {batch.words}"]
    culprit = find_culprit(case, batch.values, innocent=innocent_marks(case))
    what = "an operation" if culprit is None else f"`{culprit.operation}`"
    where = "" if culprit is None or culprit.location is None else f" ({culprit.location})"
    return [
        f"not finite when {batch.words}: {what}{where} of nothing is so by torch's definition"
        if culprit is None or not _is_own(case, culprit)
        else f"not finite when {batch.words}"
    ]


# ---------------------------------------------------------------------------- telling
def _by_place(broken: list[_Broken]) -> dict[_Place, list[_Broken]]:
    groups: dict[_Place, list[_Broken]] = {}
    for fault in broken:
        place = fault.location
        key = None if place is None else (place.file, place.line)
        groups.setdefault(key, []).append(fault)
    return groups


def _reported(case: Examination) -> set[_Place]:
    """Lines that LP301 or LP302 names already, for a prediction that does the same."""
    found: Survey | None = case.notes.get(NOTE)
    failures = [] if found is None else [*found.undefined, *found.overflows]
    places = [failure.culprit.location for failure in failures if failure.culprit is not None]
    return {(place.file, place.line) for place in places if place is not None}


def _finding(case: Examination, faults: list[_Broken]) -> Finding:
    first = faults[0]
    evidence: dict[str, Number] = {"batches": len(faults)}
    if first.value is not None:
        evidence["value"] = first.value if math.isfinite(first.value) else str(first.value)
    if first.batch.share is not None:
        evidence["share of batches"] = first.batch.share
    return RULE.finding(
        f"{first.how} when {first.batch.words}",
        location=first.location or case.subject.location,
        cause=first.cause,
        evidence=evidence,
        notes=[f"also when {fault.batch.words}" for fault in faults[1:4]],
        help=first.help,
    )
