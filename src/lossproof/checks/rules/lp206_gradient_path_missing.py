"""A backward leaves out a path through forward, or gives it the wrong weight.

## What it does

Where LP202's witnesses have convicted a backward, looks for the path: for every value that
`forward` computes, and every use of it, the share of the gradient that flows through it is known.
If the wrong gradient is the right one without such a share, or with the share's sign changed, or
doubled or halved, the finding points to the line of `forward` whose derivative is at fault.

## Why it matters

The commonest mistake in a backward derived on paper is a value that was taken for a constant: a
denominator, a normaliser, a weight that depends on the prediction. The gradient then looks
plausible and has the right order of magnitude.

## Example

```python
class Dice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, t):
        overlap = (p * t).sum()
        size = p.pow(2).sum() + t.pow(2).sum()
        ctx.save_for_backward(p, t, overlap, size)
        return 1 - 2 * overlap / size

    @staticmethod
    def backward(ctx, grad_output):
        p, t, overlap, size = ctx.saved_tensors
        return -grad_output * 2 * t / size, None  # `size` depends on `p`, too
```

## Use instead

```python
class Dice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, t):
        overlap = (p * t).sum()
        size = p.pow(2).sum() + t.pow(2).sum()
        ctx.save_for_backward(p, t, overlap, size)
        return 1 - 2 * overlap / size

    @staticmethod
    def backward(ctx, grad_output):
        p, t, overlap, size = ctx.saved_tensors
        return -grad_output * (2 * t / size - 4 * overlap * p / size**2), None
```

## Not reported

A gradient that is wrong as a whole (a constant factor, the sign): that is LP202. Values stopped on
purpose with `detach` outside of a Function: they are no fault, and inside of `forward` they mean
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from lossproof.checks.causes import Diagnosis, Fault, examine_functions
from lossproof.checks.examination import Examination
from lossproof.checks.report import Finding
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.rules._gradients import (
    evidence,
    fault_location,
    in_function,
    notes,
    related_places,
)

RULE = RULES["LP206"]


def examine(case: Examination) -> Iterable[Verdict]:
    """A finding for every path that a convicted backward gets wrong."""
    diagnoses = [d for d in examine_functions(case) if d.verdict.status != "unused"]
    if not diagnoses:
        yield RULE.not_applicable("the loss has no hand-written backward")
        return
    for diagnosis in diagnoses:
        found = [fault for fault in diagnosis.faults if fault.rule == RULE.code]
        for fault in found:
            yield _finding(case, diagnosis, fault)
        if not found:
            yield _outcome(diagnosis)


def _outcome(diagnosis: Diagnosis) -> Verdict:
    status, name = diagnosis.verdict.status, diagnosis.name
    if status == "proved":
        return RULE.proved(f"`{name}`: {diagnosis.verdict.detail}")
    if status == "wrong":
        return RULE.not_applicable(f"`{name}` is wrong in another way, which LP202 or LP203 names")
    return RULE.unproved(f"`{name}`: {diagnosis.verdict.detail}")


def _finding(case: Examination, diagnosis: Diagnosis, fault: Fault) -> Finding:
    cause = fault.cause
    assert cause is not None
    backward = fault_location(case, diagnosis, fault)
    related = related_places(diagnosis, fault)
    if backward is not None:
        related.insert(0, ("backward", backward))
    return RULE.finding(
        in_function(cause.message, diagnosis.name),
        location=cause.location or backward,
        cause=cause.kind.value,
        evidence=evidence(diagnosis, fault),
        notes=notes(diagnosis, fault),
        help=fault.repair.help if fault.repair is not None else cause.help,
        related=related,
    )
