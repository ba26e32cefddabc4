"""The value changes only in jumps: its gradient is zero everywhere.

## What it does
Asks for every input that a gradient is wanted for whether small changes of it change the value. If
they do not, large changes do, and no gradient arrives at any of several points, the loss is flat in
this input: somewhere on the way stands a comparison, a rounding, an index (`argmax`), a count. The
line is proved by replay with that operation's result held fixed.

## Why it matters
A flat loss is a metric, not a loss. There is nothing to descend: the optimiser gets zero (or raises
because the result has no graph), and wrapping the result in `torch.tensor(..., requires_grad=True)`
silences the error, not the fault.

## Example
```python
def iou_loss(logits, target):
    mask = (logits > 0).float()
    return 1 - (mask * target).sum() / ((mask + target) > 0).sum()
```

## Use instead
```python
def iou_loss(logits, target):
    p = torch.sigmoid(logits)                      # soft: a gradient everywhere
    intersection = (p * target).sum()
    return 1 - intersection / (p + target - p * target).sum()
```

## Not reported
A loss that is flat only here (a hinge whose margin is satisfied) and has a gradient at other
points; an input that the value does not depend on at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.reach import Reach, reaches, why_unreachable
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP204"]

MENDS = {
    "argmax": "use `softmax` probabilities in place of the index of the largest",
    "argmin": "use `softmax` of the negated values in place of the index of the smallest",
    "round": "use the value before rounding, or a declared surrogate gradient",
    "floor": "use the value before rounding, or a declared surrogate gradient",
    "ceil": "use the value before rounding, or a declared surrogate gradient",
    "sign": "use `torch.tanh` with a scale in place of `sign`",
    "one_hot": "use `softmax` probabilities in place of the one-hot prediction",
    "long": "keep the floating values: integers have no gradient",
    "int": "keep the floating values: integers have no gradient",
}


def examine(case: Examination) -> Iterable[Verdict]:
    """Report leaves in which the value is piecewise constant."""
    if not case.leaf_names:
        yield RULE.not_applicable("no input is a floating tensor")
        return
    obstacle = why_unreachable(case)
    if obstacle is not None:
        yield RULE.unproved(obstacle)
        return
    flat = [reach for reach in reaches(case) if reach.kind == "flat"]
    alone = not any(reach.kind in ("connected", "cut") for reach in reaches(case))
    lines = set()
    for reach in flat:
        if (reach.location or reach.leaf) not in lines:
            lines.add(reach.location or reach.leaf)
            yield _finding(case, reach, alone)
    if flat:
        return
    if alone and all(reach.kind == "unused" for reach in reaches(case)):
        yield RULE.unproved("the value did not change with any input")
    else:
        yield RULE.proved("the value answers to small changes, or has a gradient where it does not")


def _finding(case: Examination, reach: Reach, alone: bool) -> Verdict:
    operation = reach.culprits[0].operation if reach.culprits else reach.operation
    name = operation.name if operation else None
    shown = _shown(name)
    return RULE.finding(
        f"{shown} makes the loss flat in `{reach.name}`: its gradient is zero everywhere",
        severity=Severity.ERROR if alone else Severity.WARNING,
        location=reach.location or case.subject.location,
        cause=(name or "flat").strip("_"),
        evidence={"large_change": reach.change, "derivative": 0.0},
        notes=(
            f"small steps of `{reach.name}` leave the value as it is, large ones change it by up "
            f"to {reach.change:.4g}",
        ),
        help=MENDS.get(
            (name or "").strip("_"),
            "use a soft version: a `sigmoid` in place of a comparison, `softmax` in place of an "
            "index",
        ),
    )


def _shown(name: str | None) -> str:
    symbols = {"__gt__": ">", "__lt__": "<", "__ge__": ">=", "__le__": "<=", "__eq__": "==",
               "gt": ">", "lt": "<", "ge": ">=", "le": "<=", "eq": "=="}  # fmt: skip
    if name is None:
        return "something outside torch"
    return f"the comparison `{symbols[name]}`" if name in symbols else f"`{name}`"
