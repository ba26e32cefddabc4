"""At the very inputs it was given, the loss breaks in float16, in bfloat16 or under autocast.

## What it does

Casts inputs and parameters to float16 and to bfloat16, and calls the loss once more under
`torch.autocast` with a prediction in float16. The float64 twin at the same rounded numbers is the
truth. It reports a value or a gradient that is not finite although the true one has room in the
type, a constant that has none (a mask filled with -1e9), and a value that is wrong by a quarter
where the roundings of the inputs explain less than a thirtieth of that.

## Why it matters

A float16 sum ends at 65504, which is an image of 256 x 256; `1e-8` is 0, so an `eps` that keeps a
root or a divisor away from 0 does nothing. The loss scaler skips every step, or the training ends.

## Example

```python
def dice(probability, target):
    both = (probability * target).sum()  # more than 65504 in float16
    return 1 - 2 * both / (probability.sum() + target.sum())
```

## Use instead

```python
def dice(probability, target):
    probability, target = probability.float(), target.float()
    both = (probability * target).sum()
    return 1 - 2 * both / (probability.sum() + target.sum())
```

## Not reported

- A type for which nothing shows that it is meant (half inputs or parameters, a cast to
  half, a check under autocast): what would break there is told among what is unproved.
- What the type of the inputs breaks at the given numbers; that is LP302.
- Results that have no room in the type by their mathematics.
- Operations that this machine has not in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from lossproof.checks.examination import Examination
from lossproof.checks.half import HALVES, MODES, Trial, tried, use_of_half
from lossproof.checks.mends import mend
from lossproof.checks.nonfinite import is_finite
from lossproof.checks.report import Finding, Location, Number, Severity
from lossproof.checks.rules import RULES, Verdict

RULE = RULES["LP303"]
MOST_TO_TELL = 500_000
"""Of more numbers the first rows are tried where nothing shows that half precision is meant."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Call the loss in each mode of half precision once."""
    base = case.base
    if base.value is None or not base.value.is_floating_point():
        yield RULE.unproved("the loss gives no floating-point value to look at")
        return
    if not is_finite(base):
        yield RULE.unproved("the loss is not finite at the given inputs: see LP302")
        return
    use = use_of_half(case)
    if not use and case.inputs.numel > MOST_TO_TELL:
        case = case.few_rows
    modes = MODES if case.affordable(4 * len(MODES)) else MODES[:1]
    trials = [trial for trial in (tried(case, mode) for mode in modes) if trial is not None]
    broken = [trial for trial in trials if trial.fault not in (None, "raises")]
    faults = _by_place(case, broken)
    for dtype in HALVES:
        of_type = [trial for trial in faults if trial.mode.dtype is dtype]
        if of_type and dtype in use:
            yield _finding(case, of_type, use[dtype])
            continue
        for trial in of_type:
            yield RULE.unproved(
                f"{trial.mode.words}: {_what(trial)} ({_location(case, trial)}); nothing shows "
                "that this type is meant for the loss"
            )
    yield from _others(trials, broken)


def _others(trials: list[Trial], broken: list[Trial]) -> Iterable[Verdict]:
    """What is said of the modes that break nothing."""
    for trial in trials:
        if trial.fault == "raises":
            error = trial.found.error or trial.found.backward_error
            yield RULE.unproved(f"{trial.mode.words}: raises {_first_line(error)}")
    fine = [trial for trial in trials if trial.fault is None and not trial.missing]
    if fine:
        words = ", ".join(trial.mode.words for trial in fine)
        yield RULE.proved(f"finite and within the type's rounding {words}")
    elif not broken and all(trial.missing for trial in trials):
        yield RULE.unproved(
            "an operation has no half precision on this machine"
            if trials
            else "the result has no room in half precision, or is not finite in float64"
        )


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _what(trial: Trial) -> str:
    if trial.fault == "no room":
        return "a constant has no room in the type"
    if trial.fault == "off":
        return f"the loss is off by {100 * trial.error:.0f} %"
    culprit = trial.culprit
    if culprit is None:
        return "the loss or its gradient is not finite"
    text = culprit.text or culprit.operation
    if culprit.phase == "backward":
        return f"the derivative of `{text}` is {culprit.produced}"
    return f"`{text}` is {culprit.produced}"


def _location(case: Examination, trial: Trial) -> Location | None:
    if trial.culprit is not None and trial.culprit.location is not None:
        return trial.culprit.location
    return case.where(trial.found.error or trial.found.backward_error)


def _by_place(case: Examination, broken: list[Trial]) -> list[Trial]:
    """One for each line."""
    first: dict[object, Trial] = {}
    for trial in broken:
        place = _location(case, trial)
        first.setdefault(None if place is None else (place.file, place.line), trial)
    return list(first.values())


def _finding(case: Examination, trials: list[Trial], use: str) -> Finding:
    trial = trials[0]
    truth = trial.truth.scalar
    evidence: dict[str, Number] = {"value in float64": truth}
    if trial.found.value is not None:
        value = trial.found.scalar
        evidence["value in half precision"] = value if math.isfinite(value) else str(value)
    culprit = trial.culprit
    help_ = None if culprit is None else mend(culprit)
    if trial.fault == "no room":
        help_ = "fill with `torch.finfo(x.dtype).min` in place of a constant"
    return RULE.finding(
        f"{_what(trial)} {trial.mode.words} at the given inputs, where the true loss is "
        f"{truth:.4g}",
        severity=Severity.WARNING,
        location=_location(case, trial),
        cause="overflow" if trial.fault == "no room" else _cause(trial),
        evidence=evidence,
        notes=(use,),
        related=[
            (f"breaks {other.mode.words}", place)
            for other in trials[1:]
            if (place := _location(case, other)) is not None
        ],
        help=help_ or "compute the loss in float32: `x = x.float()`, outside of autocast",
    )


def _cause(trial: Trial) -> str:
    if trial.culprit is None:
        return "rounding"
    return f"{trial.culprit.operation}-{trial.culprit.phase}"
