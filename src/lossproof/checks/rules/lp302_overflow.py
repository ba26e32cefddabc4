"""The loss overflows, underflows or rounds to infinity or NaN although its true value is finite.

## What it does

Raises the magnitude of the inputs that want a gradient step by step: logits that are confident of
the right or of a wrong class, one outlier, all values scaled, a common offset. Each point is
computed in the type of the inputs and in float64. Where the narrower type gives NaN or infinity
while float64 gives a number that the narrower type can hold, the way the loss is written down is
at fault, and the first operation that left the finite numbers is named with its line.

## Why it matters

`exp(89)` is infinite in float32, `sigmoid(18)` is exactly 1, and a float16 sum ends at 65504. A
confident network reaches such numbers, and one NaN makes every weight NaN.

## Example

```python
def bce(logits, target):
    p = torch.sigmoid(logits)
    return -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).mean()
```

## Use instead

```python
def bce(logits, target):
    return -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits)).mean()
```

## Not reported

- A loss whose true value or gradient has no room in the type, such as `exp(x)` at 100.
- Magnitudes at which float64 fails, too: there no witness says what the loss should be.
- Results that are finite and wrong; that is LP305.
- A gradient that is lost where the logarithm of a scale, a rate or a probability is beyond 40 and
  the value is right: no mixture has components of such widths.
- A prediction that is 10000 away from the numbers it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from lossproof.checks.examination import Examination
from lossproof.checks.mends import mend
from lossproof.checks.report import Finding, Location, Number, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.survey import Failure, Survey, survey

RULE = RULES["LP302"]

# Operations that take numbers out of range; an `add` somewhere before a fault explains nothing.
_UNSTABLE = frozenset(
    {"exp", "expm1", "log", "cosh", "sinh", "pow", "div", "softmax", "sigmoid", "prod", "cumprod"}
)


def examine(case: Examination) -> Iterable[Verdict]:
    """Report each operation that leaves the type's range, once."""
    found = survey(case)
    if found is None:
        yield RULE.unproved("the loss gives no floating-point value to look at")
        return
    groups = _by_culprit(found)
    for failures in groups:
        yield _finding(case, failures, str(found.dtype).removeprefix("torch."))
    if groups:
        return
    if not found.given:
        yield RULE.unproved("the loss is not finite at the given inputs in float64: see LP301")
    elif found.points or found.rungs:
        dtype = str(found.dtype).removeprefix("torch.")
        yield RULE.proved(
            f"{dtype} is finite wherever float64 is, at {found.points} special points and "
            f"{found.rungs} larger magnitudes"
        )
    else:
        yield RULE.unproved("the loss refuses every special point, or has no input to move")


def _by_culprit(found: Survey) -> list[list[Failure]]:
    """Failures of one line are one fault, and so are those of operations on each other's result.

    An `exp` that overflows in one line and the `log` of its sum that underflows in the next have
    one mend.
    """
    groups: list[list[Failure]] = []
    for failure in sorted(found.overflows, key=_order):
        home = next((group for group in groups if _belongs(failure, group[0])), None)
        if home is None:
            groups.append([failure])
        else:
            home.append(failure)
    return groups


def _order(failure: Failure) -> tuple[bool, bool, bool, float]:
    culprit = failure.culprit
    derived = culprit is None or culprit.phase == "backward"
    return culprit is None, failure.remote, derived, failure.size or 0.0


def _belongs(failure: Failure, first: Failure) -> bool:
    one, other = failure.culprit, first.culprit
    if one is None or other is None:
        return True  # not located: most likely one of those that were
    return (
        one.key == other.key
        or one.operation in other.ancestors & _UNSTABLE
        or other.operation in one.ancestors & _UNSTABLE
    )


def _finding(case: Examination, failures: list[Failure], dtype: str) -> Finding:
    first = failures[0]
    culprit = first.culprit
    evidence: dict[str, Number] = {
        f"value in {dtype}": _shown(first.value),
        "value in float64": first.truth,
        "points": len(failures),
    }
    if first.size is not None:
        evidence["magnitude"] = first.size
    text = "the loss" if culprit is None else culprit.text or culprit.operation
    what = f"{text} is not finite" if culprit is None else f"`{text}` is {culprit.produced}"
    if culprit is not None and culprit.phase == "backward":
        what = f"the derivative of `{text}` is {culprit.produced}"
    return RULE.finding(
        f"{what} in {dtype} when {first.point.words}, where the true loss is {first.truth:.4g}",
        severity=Severity.WARNING if first.remote else Severity.ERROR,
        location=culprit.location if culprit and culprit.location else case.subject.location,
        cause=None if culprit is None else f"{culprit.operation}-{culprit.phase}",
        evidence=evidence,
        notes=[f"also when {failure.point.words}" for failure in failures[1:4]],
        related=_related(failures),
        help=None if culprit is None else mend(culprit),
    )


def _related(failures: list[Failure]) -> list[tuple[str, Location]]:
    """The other lines at which the same numbers leave the range."""
    places: dict[tuple[str, int], Location] = {}
    for failure in failures:
        if failure.culprit is not None and failure.culprit.location is not None:
            places.setdefault(failure.culprit.key, failure.culprit.location)
    return [("the same numbers leave the range here", place) for place in list(places.values())[1:]]


def _shown(value: float) -> Number:
    return value if math.isfinite(value) else str(value)
