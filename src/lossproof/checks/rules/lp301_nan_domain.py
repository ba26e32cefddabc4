"""The loss or its gradient is NaN or infinite at an input that training can reach.

## What it does

Calls the loss in float64 at special points of its inputs' own domain: a prediction equal to the
target, zeros, constants, equal samples, a flat region, probabilities of exactly 0 and 1, rotations
that are the same. Where the value or a gradient is not finite, the loss is called once more with
every operation watched, and the first one that made a NaN or an infinity out of finite numbers is
named with its line, in the forward or in the backward pass.

## Why it matters

One NaN in one gradient makes every weight NaN with the next step. It comes when the fit gets good,
when a patch of an image is flat or when a batch holds two equal samples: late, and not at the
inputs a loss is tried on.

## Example

```python
def rmse(prediction, target):
    return torch.sqrt(((prediction - target) ** 2).mean())  # the slope of sqrt at 0 is infinite
```

## Use instead

```python
def rmse(prediction, target):
    return torch.sqrt(((prediction - target) ** 2).mean() + 1e-12)
```

## Not reported

- Points outside the domain that the given values show: a loss given probabilities is not asked
  about -3.
- What another target, mask or label would do; only inputs that want a gradient are moved.
- A loss that goes to minus infinity, such as minus a signal-to-noise ratio at a perfect fit: it
  has no minimum by its definition.
- What fails in float32 only; that is LP302.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from lossproof.checks.examination import Examination
from lossproof.checks.mends import mend
from lossproof.checks.report import Finding, Number
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.survey import Failure, Survey, survey

RULE = RULES["LP301"]


def examine(case: Examination) -> Iterable[Verdict]:
    """Report each operation that is undefined at a special point, once."""
    found = survey(case)
    if found is None:
        yield RULE.unproved("the loss gives no floating-point value to look at")
        return
    if not found.given and not all(map(_is_finite, case.inputs.values)):
        yield RULE.unproved("an input holds NaN or infinity, and the loss is not finite with it")
        return
    groups = _by_culprit(found)
    for failures in groups:
        yield _finding(case, failures)
    if groups:
        return
    if not found.given:
        yield RULE.unproved("the loss is not finite at the given inputs in its own type: see LP302")
    elif found.points:
        yield RULE.proved(limit(found))
    else:
        yield RULE.unproved("the loss refuses every special point, or has no input to move")
    if found.left_out:
        yield RULE.unproved(
            f"{found.left_out} points were left out because the loss takes many operations"
        )


def _is_finite(value: object) -> bool:
    return not isinstance(value, torch.Tensor) or bool(torch.isfinite(value).all())


def limit(found: Survey) -> str:
    """What the proof covers, in words."""
    words = f"finite at {found.points} special points"
    if found.poles:
        words += f"; goes to minus infinity when {found.poles[0].words}"
    if found.refused:
        words += f"; raises at {found.refused} more"
    return words


def _by_culprit(found: Survey) -> list[list[Failure]]:
    """Failures with the same culprit are one fault; one that LP302 names is not named again."""
    taken = {
        (failure.culprit.key, failure.culprit.operation)
        for failure in found.overflows
        if failure.culprit is not None
    }
    groups: dict[object, list[Failure]] = {}
    for failure in found.undefined:
        culprit = failure.culprit
        if culprit is not None and (culprit.key, culprit.operation) in taken:
            continue
        groups.setdefault(None if culprit is None else culprit.key, []).append(failure)
    if len(groups) > 1:
        groups.pop(None, None)  # not located: most likely one of the others
    return list(groups.values())


def _finding(case: Examination, failures: list[Failure]) -> Finding:
    first = failures[0]
    culprit = first.culprit
    evidence: dict[str, Number] = {
        "value": _shown(first.value),
        "points": len(failures),
    }
    notes = [
        f"the loss is {first.value:g} there and its gradient is not finite: one such batch is the "
        "end of the training"
        if first.gradient_only
        else f"the loss is {first.value:g} there"
    ]
    notes += [f"also when {failure.point.words}" for failure in failures[1:4]]
    if len(failures) > 4:
        notes.append(f"and at {len(failures) - 4} more special points")
    location = culprit.location if culprit and culprit.location else case.subject.location
    return RULE.finding(
        f"{what_happens(first)} when {first.point.words}",
        location=location,
        cause=None if culprit is None else f"{culprit.operation}-{culprit.phase}",
        evidence=evidence,
        notes=notes,
        help=None if culprit is None else mend(culprit),
    )


def what_happens(failure: Failure) -> str:
    """The fault in words, without the point."""
    culprit = failure.culprit
    if culprit is None:
        return f"the {'gradient' if failure.gradient_only else 'loss'} is not finite"
    what = f"`{culprit.text or culprit.operation}`"
    if culprit.phase == "backward":
        kind = "an infinite" if culprit.produced == "inf" else "an undefined (nan)"
        return f"{what} has {kind} derivative"
    given = "" if culprit.operand is None else f", `{culprit.operation}` of {culprit.operand:g},"
    return f"{what}{given} is {culprit.produced}"


def _shown(value: float) -> Number:
    return value if math.isfinite(value) else str(value)
