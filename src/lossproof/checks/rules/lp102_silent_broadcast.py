"""Two inputs of different shape are combined, and the result is larger than both.

## What it does
Looks at every two-operand operation of one recorded call: `pred - target`, `F.mse_loss(pred,
target)` and the like. It reports those whose operands come from different inputs of the loss and
whose result has more elements than either, unless an operand was given its axes of size 1 on
purpose. It also reports a constant vector (a buffer) that was spread over the last axis of a
pairwise result `[B, N, N]` where it only fits because both axes have one length: given a target of
another length, the operation fails, and given a prediction of another length, it does not. And it
reports `pred - target[:, None]` for two vectors, if the loss has a slope where both are equal, and
a product of all pairs that is only added up: the product of two sums needs no pairs.

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

import torch

from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import excerpt
from lossproof.checks.terms import PRODUCTS
from lossproof.checks.trace import Alignment, Broadcast, Operation

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP102"]
OFF = 0.01
"""The share of the usual gradient that is left at a perfect fit of an accidental broadcast."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Report the broadcasts that nobody asked for, one for each line."""
    seen: set[tuple[str, int] | None] = set()
    for broadcast in case.trace.broadcasts:
        if not (
            is_silent(broadcast)
            or _is_summed_product(case, broadcast)
            or _misses_a_perfect_fit(case, broadcast)
        ):
            continue
        location = broadcast.operation.site.location
        line = None if location is None else (location.file, location.line)
        if line in seen:
            continue
        seen.add(line)
        yield _finding(case, broadcast)
    for alignment in case.trace.alignments:
        target = _wrong_axis(case, alignment)
        if target is not None:
            seen.add(None)
            yield _alignment_finding(case, alignment, target)
            break
    if not seen:
        yield RULE.proved(f"none in {len(case.trace.operations)} operations")


def is_silent(broadcast: Broadcast) -> bool:
    """Whether two different inputs were spread over each other without being told to."""
    left, right = broadcast.left_inputs, broadcast.right_inputs
    return bool(left and right and left != right and not broadcast.intended)


def _is_summed_product(case: Examination, broadcast: Broadcast) -> bool:
    """Whether every item of one operand is multiplied by every item of the other, and all is added.

    Such a sum is the product of two sums, for which nobody builds pairs: the axis of size 1 that
    was written out was meant to line up with another one.
    """
    operation, wanted = broadcast.operation, set(case.inputs.differentiable)
    left, right = broadcast.left_inputs, broadcast.right_inputs
    if operation.name not in PRODUCTS or not (left and right and (left | right) & wanted):
        return False
    users = [
        other
        for other in case.trace.operations
        if other.inside is None and any(value is operation.out for value in other.args)
    ]
    return bool(users) and all(_adds_everything(user) for user in users)


def _adds_everything(operation: Operation) -> bool:
    out = operation.out
    return operation.name in ("sum", "mean") and isinstance(out, torch.Tensor) and out.numel() == 1


def _misses_a_perfect_fit(case: Examination, broadcast: Broadcast) -> bool:
    """Whether `pred - target[:, None]` was meant to pair each prediction with its own target.

    One operand has its axis of size 1 on purpose, which all pairs would need, too. But a distance
    of all pairs (energy distance, MMD) has no slope where prediction and target are equal.
    """
    if not broadcast.one_sided or len(broadcast.left_inputs | broadcast.right_inputs) != 2:
        return False
    pair = sorted(broadcast.left_inputs | broadcast.right_inputs)
    predictions = [i for i in pair if i in case.inputs.differentiable]
    if len(broadcast.left_inputs) != 1 or len(predictions) != 1:
        return False
    leaf = case.inputs.differentiable.index(predictions[0])
    target = next(i for i in pair if i != predictions[0])
    values = list(case.inputs.values)
    values[predictions[0]] = values[target].reshape(values[predictions[0]].shape).double()
    fit = case.evaluate(values, dtype=torch.float64)
    if fit.failed or case.twin.failed:
        return False
    return float(fit.gradient(leaf).norm()) > OFF * float(case.twin.gradient(leaf).norm())


def _wrong_axis(case: Examination, alignment: Alignment) -> str | None:
    """The target whose axis the vector lies along, if lengthening it breaks just this operation.

    The vector belongs to the prediction's axis if it is not free either; then lengthening the
    prediction fails, too, and nothing is reported.
    """
    wanted = case.inputs.differentiable
    made_from = _pair_behind(case, alignment)
    targets = [i for i in made_from if i not in wanted]
    predictions = [i for i in made_from if i in wanted]
    if len(targets) != 1 or len(predictions) != 1:
        return None
    longer = _with_longer_axis(case, targets[0], alignment.length)
    other = _with_longer_axis(case, predictions[0], alignment.length)
    if longer is None or other is None or case.evaluate(other, backward=False).error is not None:
        return None
    failed = case.evaluate(longer, backward=False)
    where = case.subject.sources.of_exception(failed.error) if failed.error else None
    place = alignment.operation.site.location
    if where is None or place is None or (where.file, where.line) != (place.file, place.line):
        return None
    return case.inputs.arguments[targets[0]].name


def _pair_behind(case: Examination, alignment: Alignment) -> list[int]:
    """The inputs whose pairwise combination has the shape that the vector was spread over."""
    for broadcast in case.trace.broadcasts:
        if broadcast.result == alignment.shape and broadcast.intended:
            return sorted(broadcast.left_inputs | broadcast.right_inputs)
    return []


def _with_longer_axis(
    case: Examination, position: int, length: int
) -> tuple[torch.Tensor, ...] | None:
    """The inputs with one entry more on the last axis of one of them."""
    values = list(case.inputs.values)
    value = values[position]
    if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[-1] != length:
        return None
    values[position] = torch.cat((value, value[..., -1:]), -1)
    return tuple(values)


def _alignment_finding(case: Examination, alignment: Alignment, target: str) -> Verdict:
    location = alignment.operation.site.location
    return RULE.finding(
        f"a vector of {alignment.length} lies along the axis of `{target}`, and fits only because "
        "both axes have one length",
        severity=Severity.WARNING,
        location=location,
        cause="ambiguous-axis",
        evidence={"length": alignment.length, "shape": str(list(alignment.shape))},
        notes=(
            f"it is spread over the last axis of {list(alignment.shape)}",
            f"with one entry more in `{target}` this line fails; with one more in the prediction "
            "it does not",
        ),
        help="say which axis is meant: `weights[None, :, None]` for the prediction's, "
        "`weights[None, None, :]` for the other",
    )


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
