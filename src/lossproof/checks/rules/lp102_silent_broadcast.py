"""Two inputs of different shape are combined element by element, and the result is larger than both.

## What it does
Looks at every two-operand operation of one recorded call: `pred - target`, `F.mse_loss(pred,
target)` and the like. It reports those whose operands come from different inputs of the loss and
whose result has more elements than either, unless an operand was given its axes of size 1 on
purpose.

## Why it matters
A prediction of shape `[N, 1]` minus a target of shape `[N]` is an `[N, N]` matrix of all
differences. Nothing fails: the loss is a number, it even falls. But it is smallest where every
prediction is the mean of all targets, and that is what the network learns.

## Example
```python
def mse(pred, target):                  # pred [N, 1], target [N]
    return ((pred - target) ** 2).mean()
```

## Use instead
```python
def mse(pred, target):
    if pred.shape != target.shape:
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} differ")
    return ((pred - target) ** 2).mean()
```
and call it with `pred.squeeze(1)`, or with `target[:, None]`.

## Not reported
Pairwise differences that say so (`a[:, None] - b[None]`, `unsqueeze`, `expand`, `keepdim=True`, a
`view` or `reshape` that adds an axis of size 1); operands that come from the same input; a weight,
mask or buffer whose shape makes the result no larger than the other operand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import excerpt
from lossproof.checks.trace import Broadcast

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP102"]


def examine(case: Examination) -> Iterable[Verdict]:
    """Report the broadcasts that nobody asked for, one for each line."""
    seen = set()
    for broadcast in case.trace.broadcasts:
        if not is_silent(broadcast):
            continue
        location = broadcast.operation.site.location
        if location in seen:
            continue
        seen.add(location)
        yield _finding(case, broadcast)
    if not seen:
        yield RULE.proved(f"none in {len(case.trace.operations)} operations")


def is_silent(broadcast: Broadcast) -> bool:
    """Whether two different inputs were spread over each other without being told to."""
    left, right = broadcast.left_inputs, broadcast.right_inputs
    return bool(left and right and left != right and not broadcast.intended)


def _finding(case: Examination, broadcast: Broadcast) -> Verdict:
    names = [argument.name for argument in case.inputs.arguments]
    left = ", ".join(f"`{names[i]}`" for i in sorted(broadcast.left_inputs))
    right = ", ".join(f"`{names[i]}`" for i in sorted(broadcast.right_inputs))
    location = broadcast.operation.site.location
    return RULE.finding(
        f"shapes {list(broadcast.left)} and {list(broadcast.right)} broadcast to "
        f"{list(broadcast.result)}, larger than both",
        location=location,
        cause="broadcast",
        evidence={
            "left": str(list(broadcast.left)),
            "right": str(list(broadcast.right)),
            "result": str(list(broadcast.result)),
        },
        notes=(
            f"the left operand comes from {left}, the right one from {right}",
            "every item of one is combined with every item of the other",
        ),
        help=_mend(broadcast, excerpt(location)),
    )


def _mend(broadcast: Broadcast, source: str) -> str:
    """Make the shapes equal: squeeze an axis of 1, where that does it."""
    left = [size for size in broadcast.left if size != 1]
    right = [size for size in broadcast.right if size != 1]
    if left == right:
        longer, shorter = (
            ("left", broadcast.right)
            if len(broadcast.left) > len(broadcast.right)
            else ("right", broadcast.left)
        )
        return (
            f"give the {longer} operand of `{source}` the shape {list(shorter)}, for example "
            f"with `.reshape({', '.join(map(str, shorter))})` or `.squeeze(...)`, and raise an "
            "error for shapes that differ"
        )
    return (
        "make both shapes equal before the operation; if all pairs are wanted, say so with "
        "`[:, None]`"
    )
