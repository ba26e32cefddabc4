"""What the mean of a chunked loss divides by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lossproof.errors import UsageError
from lossproof.speed.chunk_call import Call, Ignoring, without_ignored
from lossproof.speed.chunk_plan import Plan, with_axes
from lossproof.speed.item_loss import Counting
from lossproof.write.precision import any_half
from lossproof.write.reduction import denominator, divide

Tensor = torch.Tensor


def denominator_of(
    call: Call, plan: Plan, ignoring: Ignoring, counting: Counting
) -> float | Tensor:
    """What the mean of a call divides by."""
    like = call.hidden.detach().new_empty(()).expand(len(call.hidden), *plan.item_shape)
    weight = None if call.weight is None else with_axes(call.weight, like)
    mask = None if call.mask is None else with_axes(call.mask, like)
    if call.keep is not None:
        keep = with_axes(call.keep, like)
        mask = keep if mask is None else mask & keep
    if counting == "class weights":
        of_classes = plan.item.class_weights(call.target)
        assert of_classes is not None and call.target is not None
        index = call.target
        if ignoring.target is not None:
            index = torch.where(index == ignoring.target, 0, index)
        own = with_axes(of_classes[index.long()], like)  # bytes would be a mask
        weight = own if weight is None else weight * own
    if mask is not None and weight is not None:
        weight = torch.where(mask, weight, 0.0)
    return denominator(like, weight, mask, call.normalizer)


def counting_of(
    call: Call,
    plan: Plan,
    ignoring: Ignoring,
    logits: Tensor,
    rows: Sequence[Tensor],
    of_loss: Sequence[Tensor],
) -> Counting:
    """What the mean of the loss divides by, as its own mean of a few rows shows.

    Raises:
        UsageError: it is neither the number of items nor the weights of their classes.
    """
    likely = plan.item.counting(call.target)
    few = replace(
        call,
        arguments=tuple(rows[1 : 1 + plan.arguments]),
        hidden=rows[0],
        weight=None,
        mask=None,
        keep=None,
    )
    few = _telling(few, ignoring, plan.item.class_weights(call.target))
    rows = [rows[0], *few.arguments, *rows[1 + plan.arguments :]]
    with torch.no_grad(), plan.surroundings.again():
        values = plan.values(logits, rows, of_loss).double()
    with torch.no_grad(), plan.surroundings.again():
        mean = plan.called(logits, rows, of_loss, "mean").double()
    if not values.isfinite().all() or not mean.isfinite():
        return likely[0]
    few = without_ignored(few, ignoring)
    rtol = 1e-2 if any_half((call.hidden,)) else 1e-4
    for counting in likely:
        found = divide(values.sum(), denominator_of(few, plan, ignoring, counting))
        if torch.isclose(found, mean, rtol=rtol, atol=1e-8):
            return counting
    raise UsageError(
        f"the loss's own mean of {len(values)} rows is {mean.item():g}, and the sum of their "
        f"values over {'the weights of their classes' if len(likely) > 1 else 'the number'} "
        f"of those that count is {found.item():g}: what its mean divides by is not known; give "
        '`normalizer`, or use reduction="sum" and divide'
    )


def _telling(few: Call, ignoring: Ignoring, class_weights: Tensor | None) -> Call:
    """Targets that tell one mean from another: classes of unlike weights, and some ignored."""
    target = few.target
    if target is None or target.is_floating_point() or target.dtype is torch.bool:
        return few
    target = target.clone()
    if class_weights is not None:
        target[0::3] = class_weights.argmax()
        target[1::3] = class_weights.argmin()
    range_ = torch.iinfo(target.dtype)
    if ignoring.target is not None and range_.min <= ignoring.target <= range_.max:
        target[2::3] = ignoring.target
    return replace(few, arguments=(target, *few.arguments[1:]))
