"""The gradient is not the derivative of the loss.

## What it does

Takes the hand-written `backward` of every `autograd.Function` in the loss and compares it with the
derivative of its `forward`, found in three independent ways: `forward` run again as ordinary code
under autograd, forward-mode differentiation of the same Python, and finite differences. Two of
them must agree against the backward. (A `forward` that leaves torch, as with numpy, cannot be
differentiated: there the gradient's integral along a line is the second witness.) The cause is
named where it can be: a constant factor (the 1/N of a mean, the 2 of a square, a sign), one mean in
the place of the elements, swapped or transposed gradients, a wrong sum over a broadcast input, a
missing factor, a wrong constant.
Where the loss has no such Function, its gradient as a whole is compared with finite differences.

## Why it matters

torch believes a `backward`. A wrong one trains: more slowly, to a worse place, or until it
explodes, and nothing says why.

## Example

```python
class MSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return grad_output * 2 * (input - target), None  # forward took the mean
```

## Use instead

```python
class MSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return grad_output * 2 * (input - target) / input.numel(), None
```

## Not reported

- A backward that is right but for its use of `grad_output`: that is LP203. One that leaves out or
  misweighs one path through `forward`: that is LP206, which gives its line.
- Surrogate gradients. Where `forward` is piecewise constant (rounding, a sign, a threshold), or
  passes its input through (gradient reversal, scaling or clipping), the backward is meant to be
  something else than the derivative. That is said under *unproved*.
- Values that the loss stops on purpose (`detach`, `no_grad`): finite differences hold them fixed.
- Differences that come from a backward computing in float32.
- A relative error below 1e-5 without a cause: a forward that iterates towards a fixed point, and a
  backward that is exact there. That is said under *unproved*.
"""

from __future__ import annotations

from collections.abc import Iterable

from lossproof.checks.arbitration import EXACT, FunctionVerdict
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
from lossproof.checks.rules._whole_gradient import judge_whole_loss

RULE = RULES["LP202"]
APPROXIMATION = 1e-5
"""Up to this relative error, a difference without a cause may be a forward that iterates."""


def examine(case: Examination) -> Iterable[Verdict]:
    """A finding for every wrong backward; else what was proved of the gradient, or why not."""
    diagnoses = examine_functions(case)
    wrong = any(diagnosis.verdict.status == "wrong" for diagnosis in diagnoses)
    for diagnosis in diagnoses:
        yield from _verdicts(case, diagnosis)
    if wrong:
        return
    if any(_leaves_open(diagnosis.verdict) for diagnosis in diagnoses):
        return  # the loss as a whole cannot be better than its parts
    yield judge_whole_loss(case, RULE)


def _leaves_open(verdict: FunctionVerdict) -> bool:
    if verdict.status in ("surrogate", "unproved"):
        return True
    return verdict.narrow or max(verdict.errors, default=0.0) > EXACT


def _verdicts(case: Examination, diagnosis: Diagnosis) -> Iterable[Verdict]:
    verdict, name = diagnosis.verdict, diagnosis.name
    if verdict.status == "wrong":
        own = [fault for fault in diagnosis.faults if fault.rule == RULE.code]
        for fault in own:
            if _is_approximation(diagnosis, fault):
                yield _approximates(diagnosis, fault)
            else:
                yield _finding(case, diagnosis, fault)
        if not own:
            yield _named_elsewhere(diagnosis)
    elif verdict.status == "proved":
        yield RULE.proved(f"`{name}`: {verdict.detail}")
    elif verdict.status in ("surrogate", "unproved"):
        yield RULE.unproved(f"`{name}`: {verdict.detail}")
    elif verdict.status == "raises":
        yield RULE.unproved(f"`{name}` cannot be run by itself: {verdict.detail}")


def _is_approximation(diagnosis: Diagnosis, fault: Fault) -> bool:
    """Whether the forward may iterate towards what the backward is the exact derivative of.

    A slip of the pen has a cause that can be named, or is larger.
    """
    errors = [diagnosis.verdict.errors[k] for k in fault.arguments]
    return fault.cause is None and fault.repair is None and max(errors) <= APPROXIMATION


def _approximates(diagnosis: Diagnosis, fault: Fault) -> Verdict:
    error = max(diagnosis.verdict.errors[k] for k in fault.arguments)
    return RULE.unproved(
        f"`{diagnosis.name}` misses the derivative of its forward by a relative {error:.1e}, and "
        "no cause could be named: the forward may only approximate what the backward is the "
        "derivative of"
    )


def _named_elsewhere(diagnosis: Diagnosis) -> Verdict:
    rules = " and ".join(sorted({fault.rule for fault in diagnosis.faults}))
    if rules == "LP203":
        return RULE.proved(f"`{diagnosis.name}` is right but for `grad_output` ({rules})")
    return RULE.unproved(f"`{diagnosis.name}` is wrong in a way that {rules} names")


def _finding(case: Examination, diagnosis: Diagnosis, fault: Fault) -> Finding:
    cause = fault.cause
    message = (
        in_function(cause.message, diagnosis.name)
        if cause is not None
        else f"the backward of `{diagnosis.name}` is not the derivative of its forward"
    )
    mend = fault.repair.help if fault.repair is not None else cause.help if cause else None
    return RULE.finding(
        message,
        location=fault_location(case, diagnosis, fault),
        cause=cause.kind.value if cause is not None else None,
        evidence=evidence(diagnosis, fault),
        notes=notes(diagnosis, fault),
        help=mend,
        related=related_places(diagnosis, fault),
    )
