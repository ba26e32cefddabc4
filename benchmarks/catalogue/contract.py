"""What the catalogue promises beyond the common checks: reductions, weights, masks, Modules."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.catalogue.battery import (
    Check,
    NotApplicable,
    float32_beside_float64,
    in_half,
    same,
    under_autocast,
    worst,
)
from benchmarks.catalogue.subject import Call, Subject, value_and_gradients
from lossproof.write import sweeping

Tensor = torch.Tensor
FLOAT64 = torch.float64


def _values(subject: Subject, given: Call, **options: Any) -> Tensor:
    """The values of the items."""
    _needs(subject, "reduction")
    return subject.call(*given.tensors, reduction="none", **options).detach()


def _needs(subject: Subject, *options: str) -> None:
    if not subject.options.issuperset(options):
        raise NotApplicable


def reductions(subject: Subject) -> str | None:
    """The sum is the sum of the values, the mean a mean of them; another word is an error."""
    given = subject.draw(dtype=FLOAT64)
    values = _values(subject, given)
    total = subject.call(*given.tensors, reduction="sum").detach()
    mean = subject.call(*given.tensors, reduction="mean").detach()
    if worst(values.sum(), total) > 1e-9:
        return f"the values add up to {values.sum().item()}, the sum is {total.item()}"
    items = float(total / mean) if mean else 1.0
    counts = values.numel() if not _counts_some(subject) else round(items)
    if abs(items - counts) > 1e-6 * counts or not 1 <= counts <= values.numel():
        return f"the mean divides by {items}, of {values.numel()} values"
    for wrong in ("average", "", None, "batchmean"):
        said = _refusal(subject, given, reduction=wrong)
        if "reduction" not in said:
            return f"reduction={wrong!r}: {said or 'no error'}"
    return None


def _refusal(subject: Subject, given: Call, **options: Any) -> str:
    """What an error says; nothing where there is none."""
    try:
        subject.call(*given.tensors, **options)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def _counts_some(subject: Subject) -> bool:
    """Whether the mean is one over some of the items: events, anchors that have positives."""
    pairs = subject.name == "pairwise_logistic_loss"  # of items that differ in relevance
    return pairs or subject.entry.properties.coupled or "ignore_index" in subject.options


def normalizer(subject: Subject) -> str | None:
    """The mean with a normalizer is the sum divided by it, number or tensor."""
    _needs(subject, "reduction", "normalizer")
    given = subject.draw(dtype=FLOAT64)
    total = subject.call(*given.tensors, reduction="sum").detach()
    for divisor in (7, 2.5, torch.tensor(3.0, dtype=FLOAT64)):
        found = subject.call(*given.tensors, normalizer=divisor).detach()
        if worst(found, total / divisor) > 1e-9:
            return f"{found.item()} with normalizer={divisor}, the sum is {total.item()}"
    return None


def batch_split(subject: Subject) -> str | None:
    """Two halves with the normalizer of the whole add up to the whole."""
    _needs(subject, "reduction", "normalizer")
    if subject.entry.properties.coupled:
        raise NotApplicable
    given = subject.draw(dtype=FLOAT64)
    whole = value_and_gradients(subject.call, given, normalizer=5)
    cut = given.samples // 2
    parts = [
        value_and_gradients(subject.call, given.rows(rows), normalizer=5)
        for rows in (slice(0, cut), slice(cut, None))
    ]
    joined = [
        torch.cat([parts[0][1][k], parts[1][1][k]]) if given.batched(i) else whole[1][k]
        for k, i in enumerate(given.predicted)
    ]
    return same((parts[0][0] + parts[1][0], joined), whole, 1e-9)


def _item_weight(subject: Subject, given: Call) -> Tensor:
    """A weight for each item, or for each class where the labels are classes."""
    _needs(subject, "reduction", "weight")
    generator = torch.Generator().manual_seed(3)
    if "ignore_index" in subject.options:
        bound = re.search(r"int\[.*?\]\s*<(\d+)", subject.specification)
        columns = given.tensors[0].shape[1] if given.tensors[0].ndim > 1 else None
        classes = int(bound[1]) if bound else columns
        # Where an anchor is compared with others, and its input holds no classes, it has a weight.
        anchors = subject.entry.properties.coupled and classes != columns
        count = given.samples if anchors else classes
        return torch.rand(count, generator=generator, dtype=FLOAT64) + 0.5
    shape = _values(subject, given).shape
    return torch.rand(shape, generator=generator, dtype=FLOAT64) + 0.5


def weights(subject: Subject) -> str | None:
    """Twice the weights: twice the sum and the values, the same mean; weight 1 changes nothing."""
    given = subject.draw(dtype=FLOAT64)
    weight = _item_weight(subject, given)
    for reduction, factor in (("sum", 2.0), ("none", 2.0), ("mean", 1.0)):
        one = subject.call(*given.tensors, weight=weight, reduction=reduction).detach()
        two = subject.call(*given.tensors, weight=2 * weight, reduction=reduction).detach()
        if worst(two, factor * one) > 1e-9:
            return f"{reduction}: {two.flatten()[:3].tolist()}, {one.flatten()[:3].tolist()} before"
    plain = subject.call(*given.tensors).detach()
    ones = subject.call(*given.tensors, weight=torch.ones_like(weight)).detach()
    return same((ones, []), (plain, []), 1e-9)


def _mask(subject: Subject, given: Call) -> Tensor:
    _needs(subject, "reduction", "mask")
    # What a ranking leaves out is an item of a list; its values are those of lists.
    counted = given.tensors[0] if _of_lists(subject) else _values(subject, given)
    mask = torch.rand(counted.shape, generator=torch.Generator().manual_seed(5)) < 0.6
    mask.view(-1)[0] = True
    mask.view(-1)[-1] = False
    return mask


def _of_lists(subject: Subject) -> bool:
    return subject.entry.family in {"ranking", "ndcg"}


def masked_nan(subject: Subject) -> str | None:
    """What the mask leaves out may be NaN or infinite: value and gradient do not see it."""
    given = subject.draw(dtype=FLOAT64)
    mask = _mask(subject, given)
    clean = value_and_gradients(subject.call, given, mask=mask)
    for poison in (float("nan"), float("inf"), -float("inf")):
        spoiled = given
        for i, tensor in enumerate(given.tensors):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                outside = _outside(mask, tensor)
                if outside is not None:
                    spoiled = spoiled.replaced(i, tensor.masked_fill(outside, poison))
        wrong = same(value_and_gradients(subject.call, spoiled, mask=mask), clean, 1e-9)
        if wrong:
            return f"{wrong} ({poison} where the mask is false)"
    return None


def _outside(mask: Tensor, tensor: Tensor) -> Tensor | None:
    """Where an input belongs to items that do not count; further axes belong to the item."""
    if tensor.shape == mask.shape:
        return ~mask
    if tensor.ndim > mask.ndim and tensor.shape[: mask.ndim] == mask.shape:
        return ~mask.reshape(*mask.shape, *[1] * (tensor.ndim - mask.ndim)).expand_as(tensor)
    classes_between = (tensor.shape[:1], tensor.shape[2:]) == (mask.shape[:1], mask.shape[1:])
    if tensor.ndim == mask.ndim + 1 and classes_between:
        return ~mask.unsqueeze(1).expand_as(tensor)
    return None


def mask_is_zero_weight(subject: Subject) -> str | None:
    """To leave an item out is to give it the weight 0."""
    if subject.entry.properties.coupled or _of_lists(subject):
        raise NotApplicable
    given = subject.draw(dtype=FLOAT64)
    mask = _mask(subject, given)
    _needs(subject, "weight")
    found = value_and_gradients(subject.call, given, mask=mask)
    return same(found, value_and_gradients(subject.call, given, weight=mask.double()), 1e-9)


def nothing_counts(subject: Subject) -> str | None:
    """Where everything is left out, the loss is 0 with zero gradients."""
    given = subject.draw(dtype=FLOAT64)
    if "ignore_index" in subject.options:
        given = given.each(lambda t: t if t.is_floating_point() else torch.full_like(t, -100))
        options: dict[str, Any] = {}
    else:
        options = {"mask": torch.zeros_like(_mask(subject, given))}
    for reduction in ("mean", "sum") if "reduction" in subject.options else (None,):
        if reduction is not None:
            options["reduction"] = reduction
        value, gradients = value_and_gradients(subject.call, given, **options)
        if value.any() or any(g.any() for g in gradients):
            return f"{reduction}: {value.item()}"
    return None


def ignored_nan(subject: Subject) -> str | None:
    """Predictions of ignored labels may be NaN or infinite."""
    _needs(subject, "ignore_index")
    given = subject.draw(dtype=FLOAT64)
    labels = next(i for i, t in enumerate(given.tensors) if not t.is_floating_point())
    ignored = torch.rand(given.tensors[labels].shape, generator=torch.manual_seed(1)) < 0.4
    ignored.view(-1)[0], ignored.view(-1)[-1] = True, False
    given = given.replaced(labels, given.tensors[labels].masked_fill(ignored, -100))
    outside = _outside(~ignored, given.tensors[0])
    assert outside is not None
    clean = value_and_gradients(subject.call, given)
    if clean[1][0][outside].any():
        return "an ignored item has a gradient"
    for poison in (float("nan"), float("inf"), 3e4):
        spoiled = given.replaced(0, given.tensors[0].masked_fill(outside, poison))
        wrong = same(value_and_gradients(subject.call, spoiled), clean, 1e-9)
        if wrong:
            return f"{wrong} (ignored predictions are {poison})"
    other = given.replaced(labels, given.tensors[labels].masked_fill(ignored, 250))
    return same(value_and_gradients(subject.call, other, ignore_index=250), clean, 1e-12)


def row_order(subject: Subject) -> str | None:
    """The order of the samples does not matter."""
    given = subject.draw(dtype=FLOAT64)
    if not all(given.batched(i) for i in range(len(given.tensors))):
        raise NotApplicable
    order = torch.randperm(given.samples, generator=torch.Generator().manual_seed(2))
    value, gradients = value_and_gradients(subject.call, given)
    found = value_and_gradients(subject.call, given.rows(order))
    return same(found, (value, [g[order] for g in gradients]), 1e-9)


def module(subject: Subject) -> str | None:
    """The Module gives the function's value, and survives pickling, copying and a state dict."""
    entry = subject.entry
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = entry.module(**entry.options)
    if not isinstance(made, nn.Module):
        return "no Module"
    given = subject.draw()
    wanted = subject.call(*given.tensors).detach()
    again = entry.module(**entry.options)
    again.load_state_dict(made.state_dict())
    for copied in (made, pickle.loads(pickle.dumps(made)), copy.deepcopy(made), again):
        if worst(copied(*given.tensors).detach(), wanted) > 1e-6:
            return "another value than the function's"
    return None if type(made).__name__ in repr(made) else f"shown as {made!r}"


def module_state(subject: Subject) -> str | None:
    """A call in half precision leaves parameters and buffers as they were."""
    made = subject.entry.module(**subject.entry.options)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(*subject.draw().to(torch.bfloat16).tensors)
    for name, value in made.state_dict().items():
        if value.dtype != before[name].dtype or not torch.equal(value, before[name]):
            return f"`{name}` changed"
    return None


def precise(subject: Subject) -> str | None:
    """Float32 agrees with float64 to 1e-3 of the largest number, also for large predictions."""
    return float32_beside_float64(subject, 1e-3)


def computed_in_float32(subject: Subject) -> str | None:
    """Half precision is rounded once, at the end, and autocast changes nothing."""
    wrong = in_half(subject, {torch.float16: 2e-3, torch.bfloat16: 2e-2})
    return wrong or under_autocast(subject, 1e-5)


def exported(subject: Subject) -> str | None:
    """``torch.export`` takes the Module, for batches of any size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = subject.entry.module(**subject.entry.options)
    given, more = subject.draw(), subject.draw(times=2)
    sizes = {
        name: {0: torch.export.Dim.AUTO} if given.batched(i) else None
        for i, name in enumerate(given.names)
    }
    program = torch.export.export(made, given.tensors, dynamic_shapes=sizes)
    # What has a length of its own keeps it; all else is twice as long.
    other = Call(
        given.names,
        tuple(
            more.tensors[i] if sizes[name] else given.tensors[i]
            for i, name in enumerate(given.names)
        ),
    )
    for call in (given, other):
        found = program.module()(*call.tensors).detach()
        wrong = same((found, []), (made(*call.tensors).detach(), []), 1e-5)
        if wrong:
            return wrong
    return None


def swept(subject: Subject) -> str | None:
    """Cut into small blocks, the value and the gradient are the same."""
    given = subject.draw(times=4, dtype=FLOAT64)
    wanted = value_and_gradients(subject.call, given)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweeping, "BLOCK", 5)
        return same(value_and_gradients(subject.call, given), wanted, 1e-9)


def signature(subject: Subject) -> str | None:
    """Tensors first, options by keyword, `reduction="mean"` where there is one."""
    function = subject.entry.function or subject.entry.module
    parameters = inspect.signature(function).parameters
    if "reduction" in parameters:
        option = parameters["reduction"]
        if option.default != "mean" or option.kind is not option.KEYWORD_ONLY:
            return f"`{option}`"
        if subject.entry.function and "normalizer" not in parameters:
            return "no `normalizer`"
    return None


CONTRACT: dict[str, Check] = {
    "signature": signature,
    "reductions": reductions,
    "normalizer": normalizer,
    "batch split": batch_split,
    "weights": weights,
    "masked NaN": masked_nan,
    "mask is zero weight": mask_is_zero_weight,
    "nothing counts": nothing_counts,
    "ignored NaN": ignored_nan,
    "row order": row_order,
    "module": module,
    "module state": module_state,
    "precise": precise,
    "computed in float32": computed_in_float32,
    "export": exported,
    "swept": swept,
}
