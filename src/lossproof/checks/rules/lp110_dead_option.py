"""An option of the loss has no effect.

## What it does
Looks for options that change nothing, neither value nor gradient, at any of several draws of the
inputs, and says why: an argument of the constructor that is stored and never read again, an
argument of the call that the body never mentions, or weights that are read and cancel because
numerator and denominator hold them alike. The last is also looked for among the weights that the
loss computes for itself (a local `weight = ...`): their numbers are changed while the loss runs.

## Why it matters
Somebody tunes `alpha` and `gamma` for a week, and every run is the same run. A rare class is never
weighted up, and no error ever says so.

## Example
```python
class FocalLoss(nn.Module):
    def __init__(self, alpha=0.25, gamma=2.0):
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, logits, target):
        alpha, gamma = 0.25, 2.0
        p = torch.sigmoid(logits)
        p = torch.where(target == 1, p, 1 - p)
        return (-alpha * (1 - p) ** gamma * p.log()).mean()
```

## Use instead
```python
class FocalLoss(nn.Module):
    def __init__(self, alpha=0.25, gamma=2.0):
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, logits, target):
        alpha, gamma = self.alpha, self.gamma
        p = torch.sigmoid(logits)
        p = torch.where(target == 1, p, 1 - p)
        return (-alpha * (1 - p) ** gamma * p.log()).mean()
```

## Not reported
An option that is read and happens to have no effect at the inputs: a margin that is kept, a mode
that is not chosen, a stabiliser. Options that describe and do not compute (`num_classes`, `name`,
`device`), those whose documentation says that they are ignored, and arguments of a method that
fulfils the signature of the class above it. Weights of one item or of one class, which must
cancel. `reduction`, which has a rule of its own (LP104).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from lossproof.checks.dead_options import Unread, declared_unused, unread_options
from lossproof.checks.effect import Effects, Vanishing, floating_result, scaled_result
from lossproof.checks.inner_losses import inner_losses
from lossproof.checks.local_weights import local_weights
from lossproof.checks.promises import promises
from lossproof.checks.report import Finding, Severity
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP110"]
CALLS = 8
"""About how many calls it takes to see that nothing cancels."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Look for options without effect, of the loss and of the modules that it calls."""
    findings = [*_findings(case)]
    if not findings:
        findings = [finding for part in inner_losses(case) for finding in _findings(part)]
    yield from findings
    if findings:
        return
    if case.affordable(CALLS):
        yield RULE.proved("every option that was found is read, and no weights cancel")
    else:
        yield RULE.unproved("every option is read; the loss is too slow to see whether any cancel")


def _findings(case: Examination) -> Iterator[Finding]:
    effects = Effects(case)
    unread = [option for option in unread_options(case) if effects.none(option.variants)]
    yield from map(_unread, unread)
    if case.affordable(CALLS) and _can_tell(case):
        names = {option.name for option in unread}
        yield from itertools.islice(_cancelling(case, effects, names), 1)


def _cancelling(case: Examination, effects: Effects, unread: set[str]) -> Iterator[Finding]:
    """Options that are read, and weights that the loss computes, which cancel."""
    for promise in promises(case):
        if promise.name in unread or declared_unused(case, promise.name):
            continue
        tried = effects.none(promise.variants, promise.change)
        gone = effects.vanishing(promise.variants, promise.change) if tried else None
        if gone is not None:
            yield _cancelled(f"`{promise.name}` cancels", tried, gone)
    trace = case.twin.trace
    for name, operation in () if trace is None else local_weights(case, trace):
        assert trace is not None
        made = floating_result(trace, operation)
        if made is None or made.requires_grad or made.dim() == 0 or made.shape[-1] < 2:
            continue
        variant = [scaled_result(case, operation, made.shape)]
        tried = effects.none(variant)
        gone = effects.vanishing(variant) if tried else None
        if gone is not None:
            yield _cancelled(f"the weights in `{name}` cancel", tried, gone)


def _can_tell(case: Examination) -> bool:
    """Whether there are several samples and classes: weights of one alone must cancel."""
    for value in case.inputs.values:
        if isinstance(value, torch.Tensor) and value.dim():
            if value.shape[0] < 2:
                return False
            if not value.is_floating_point() and bool((value == value.flatten()[0]).all()):
                return False
    return True


def _unread(option: Unread) -> Finding:
    if option.where == "constructor":
        message = f"the constructor's `{option.name}` is never read: it changes nothing"
        mend = f"`self.{option.name}`"
    else:
        message = f"the argument `{option.name}` is never used: it changes nothing"
        mend = f"`{option.name}`"
    place = option.shadowed or option.location
    return RULE.finding(
        message + (", and a constant stands in its place" if option.shadowed else ""),
        severity=Severity.WARNING,
        location=place,
        cause="never-read",
        evidence={"values_tried": len(option.variants)},
        help=f"compute with {mend} where its value is meant, or take the option away",
        related=(("the option", option.location),)
        if option.shadowed and option.location is not None
        else (),
    )


def _cancelled(what: str, tried: int, gone: Vanishing) -> Finding:
    return RULE.finding(
        f"{what} out: other values change neither the loss nor its gradient",
        severity=Severity.WARNING,
        location=gone.location,
        cause="cancels",
        evidence={"comparisons": tried},
        notes=(
            f"the change is last seen in the result of `{gone.seen.name}`, and `{gone.by.name}` "
            "takes it away",
        ),
        help="sum over what is weighted in numerator and denominator first, and divide the sums",
    )
