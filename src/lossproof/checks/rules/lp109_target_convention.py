"""The targets are not what the loss takes them for, or stand in the prediction's place.

## What it does
Reads, in the recorded call, what each torch loss was given against what it is defined for (labels
-1 and 1, targets from 0 to 1, log-probabilities, one distribution per row); whether labels of 0 and
1 were used as positions instead of as a mask; whether a margin such as `relu(1 - y * f)` got labels
0 and 1, or `y * a + (1 - y) * b` labels -1 and 1; whether smoothed labels still sum to 1; and
whether prediction and target went into a loss or a helper in each other's place.

## Why it matters
Nothing raises: shapes and types fit. The loss falls, and the network learns from the wrong samples,
from half of them, or towards minus infinity.

## Example
```python
def cox(log_hazard, event):  # event: int64, zeros and ones
    partial = log_hazard - torch.logcumsumexp(log_hazard, 0)
    return -partial[event].mean()
```

## Use instead
```python
def cox(log_hazard, event):
    partial = log_hazard - torch.logcumsumexp(log_hazard, 0)
    return -partial[event.bool()].mean()
```

## Not reported
Losses that are the same with prediction and target exchanged; a divergence computed in both
directions, and a reverse Kullback-Leibler divergence of well-formed distributions; soft targets;
rows of zeros (ignored samples) and weighted rows; one-sided smoothing (1 stays 1), and binary
smoothing; labels looked up in a table of class weights or centers; raw numbers given to
`kl_div` or `nll_loss` unless the argument is called logits or scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.conventions import Call, Fault
from lossproof.checks.conventions.indexing import labels_used_as_positions
from lossproof.checks.conventions.losses import losses_given_other_numbers, masks_up_to_255
from lossproof.checks.conventions.margins import labels_of_the_other_sign
from lossproof.checks.conventions.smoothing import labels_smoothed_wrongly
from lossproof.checks.conventions.swaps import arguments_in_each_others_place
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP109"]

CONVENTIONS = (
    arguments_in_each_others_place,
    losses_given_other_numbers,
    masks_up_to_255,
    labels_used_as_positions,
    labels_of_the_other_sign,
    labels_smoothed_wrongly,
)


def examine(case: Examination) -> Iterable[Verdict]:
    """Hold the recorded call against each convention."""
    call = Call(case)
    faults: dict[str, Fault] = {}
    for convention in CONVENTIONS:
        for fault in convention(call):
            # One fault, one finding: a loop meets the same line again, and so do two conventions.
            faults.setdefault(str(fault.location), fault)
    for fault in faults.values():
        yield RULE.finding(
            fault.message,
            severity=fault.severity,
            location=fault.location or case.subject.location,
            cause=fault.cause,
            evidence=fault.evidence,
            notes=fault.notes,
            help=fault.help,
        )
    if faults:
        return
    if not call.targets:
        yield RULE.not_applicable("no argument is a target")
    else:
        yield RULE.proved(f"{len(CONVENTIONS)} conventions hold in the recorded call")
