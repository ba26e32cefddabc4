"""The loss changes its inputs.

## What it does
Compares every input before and after one call, element by element, and finds the in-place
operation that wrote into it: also through a view (`labels.view(-1)`), through a conversion that
converts nothing (`target.float()` on a float tensor), under `no_grad`, and inside the `forward` of
an `autograd.Function`.

## Why it matters
The caller's tensor is not the loss's. A target that was smoothed in place is smoothed again in the
next epoch; labels that were masked in place are masked for the metric, too; a prediction that was
changed in place may be the very value that a layer before the loss saved for its backward.

## Example
```python
def smoothed_bce(input, target, eps=0.1):
    target = target.float()               # the same tensor, if it is float already
    target.mul_(1 - eps).add_(eps / 2)    # writes into the caller's labels
    return F.binary_cross_entropy_with_logits(input, target)
```

## Use instead
```python
    target = target.float() * (1 - eps) + eps / 2
```

## Not reported
Writes into tensors that the loss made itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.trace import Write

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP401"]
SIGNS = {"add_": "+", "sub_": "-", "mul_": "*", "div_": "/", "pow_": "**"}


def examine(case: Examination) -> Iterable[Verdict]:
    """Compare each input with itself after the call."""
    changed = [
        position
        for position, (before, after) in enumerate(
            zip(case.inputs.values, case.base.passed, strict=False)
        )
        if _differs(before, after)
    ]
    for position in changed:
        yield _finding(case, position)
    unnoticed = [] if changed else _written_without_effect(case)
    for position in unnoticed:
        yield _finding(case, position)
    changed += unnoticed
    if not changed and case.base.error is not None:
        yield RULE.unproved("the loss raised an exception before its end")
    elif not changed:
        yield RULE.proved("inputs equal bit for bit before and after a call")


def _written_without_effect(case: Examination) -> list[int]:
    """Inputs that were written into, though no element changed here: `clamp_` of what fits."""
    writes = case.base.trace.writes if case.base.trace is not None else []
    return sorted({write.input for write in writes if write.input is not None})


def _differs(before: Any, after: Any) -> bool:
    if isinstance(before, torch.Tensor):
        if before.shape != after.shape or before.dtype != after.dtype:
            return True
        one, other = before.detach(), after.detach()
        return not (torch.equal(one, other) or bool(_equal_or_nan(one, other).all()))
    if isinstance(before, np.ndarray):
        return not np.array_equal(before, after, equal_nan=before.dtype.kind in "fc")
    if isinstance(before, (list, tuple)):
        return len(before) != len(after) or any(map(_differs, before, after))
    if isinstance(before, dict):
        return list(before) != list(after) or any(
            _differs(before[key], after[key]) for key in before
        )
    return isinstance(before, set) and before != after


def _equal_or_nan(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one == other) | (one.isnan() & other.isnan())


def _finding(case: Examination, position: int) -> Verdict:
    name = case.inputs.arguments[position].name
    write = _write(case, position)
    before, after = case.inputs.values[position], case.base.passed[position]
    notes = []
    evidence: dict[str, Any] = {}
    if isinstance(before, torch.Tensor) and before.shape == after.shape:
        count = int((before.detach() != after.detach()).sum())
        evidence = {"changed": count, "elements": before.numel()}
        notes.append(
            f"{count} of {before.numel()} elements of `{name}` differ after the call"
            if count
            else f"no element of `{name}` changed at these inputs, others would"
        )
    elif isinstance(before, torch.Tensor):
        notes.append(f"shape {list(before.shape)} became {list(after.shape)}")
    if write is not None and write.operation.inside is not None:
        notes.append(
            "it happens inside an `autograd.Function` without `ctx.mark_dirty`, so autograd "
            "does not know of it"
        )
    operation = f"`{_shown(write)}` writes into" if write else "the loss changes"
    return RULE.finding(
        f"{operation} the caller's `{name}`",
        severity=Severity.WARNING if evidence.get("changed") == 0 else Severity.ERROR,
        location=write.operation.site.location if write else case.subject.location,
        cause="in-place",
        evidence=evidence,
        notes=notes,
        help=_mend(write),
    )


def _write(case: Examination, position: int) -> Write | None:
    writes = case.base.trace.writes if case.base.trace is not None else []
    return next((write for write in writes if write.input == position), None)


def _augmented(write: Write) -> str | None:
    """The sign of `+=` and the like, which torch calls `add_` just as the method."""
    sign = SIGNS.get(write.operation.name)
    return sign if sign is not None and f"{sign}=" in write.operation.site.text else None


def _shown(write: Write) -> str:
    sign = _augmented(write)
    if sign is not None:
        return f"{sign}="
    return "[...] =" if write.operation.name == "__setitem__" else write.operation.name


def _mend(write: Write | None) -> str:
    if write is None:
        return "work on a copy (`.clone()`)"
    name, sign = write.operation.name, _augmented(write)
    if sign is not None:
        return f"write `x = x {sign} ...` instead of `x {sign}= ...`, which makes a new tensor"
    if name == "__setitem__":
        return "work on a copy: `x = x.clone()` before this line, or `torch.where`/`index_put`"
    if name.endswith("_") and not name.endswith("__"):
        return f"use `{name[:-1]}`, which makes a new tensor, instead of `{name}`"
    return "work on a copy: `x = x.clone()` before this line"
