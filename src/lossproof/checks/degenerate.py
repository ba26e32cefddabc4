"""The batches at the edge that training meets: nothing counts, one class, no matches, one sample.

They are made from the inputs of the check by changing what is *not* predicted: a mask, labels,
events, matches. Every value stays among those that the inputs show or that the loss declares, so
each batch could be drawn from the same data, and how often it would be is reckoned from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lossproof.checks.batch import batch_of
from lossproof.checks.domain import Domain, Kind, domain_of
from lossproof.checks.examination import Examination
from lossproof.checks.inputs import Argument, Inputs
from lossproof.checks.roles import Role, roles_of

Tensor = torch.Tensor
Values = tuple[Any, ...]
Degeneracy = Literal["nothing counts", "one class", "nothing selected", "one sample", "no samples"]

RARE = 1e-6
"""A batch that is rarer than this at the shares that the inputs show is no batch to ask about."""

VOID = 255
"""What segmentation calls a pixel of no class."""

_ITEMS = re.compile(
    r"(idx|ind|inds|index|indexes|indices|match|matches|matched|pair|pairs|triplets|edges|links|"
    r"positives|negatives|correspondences|assignments|boxes|annotations|selected|queries)$",
    re.I,
)


@dataclass(frozen=True)
class DegenerateBatch:
    """The arguments of one call, and what is degenerate about them."""

    values: Values
    words: str
    """Completes a sentence that begins with "when"."""
    kind: Degeneracy
    share: float | None = None
    """Which part of all batches of this size is so, at the shares that the inputs show."""


def degenerate_batches(case: Examination) -> list[DegenerateBatch]:
    """Every plausible degenerate batch that can be made of the inputs, the likeliest kinds first.

    One sample and no samples come last.
    """
    inputs = case.small
    roles = roles_of(inputs)
    found: list[DegenerateBatch] = []
    for position, argument in enumerate(inputs.arguments):
        if argument.differentiable:
            continue
        if isinstance(argument.value, Tensor):
            found += _changed(case, position, roles[position])
        elif isinstance(argument.value, list) and _holds_items(argument):
            values = _with(inputs, {position: []})
            words = f"`{argument.name}` is an empty list"
            found.append(DegenerateBatch(values, words, "nothing selected"))
    found += _no_indices(inputs)
    plausible = [batch for batch in found if batch.share is None or batch.share >= RARE]
    return [*plausible, *_few_samples(case)]


def _with(inputs: Inputs, changes: dict[int, Any]) -> Values:
    return tuple(changes.get(i, value) for i, value in enumerate(inputs.values))


def _holds_items(argument: Argument) -> bool:
    """Whether a list holds what a batch may have none of, and not settings or several outputs."""
    pairs = all(isinstance(item, (tuple, list)) for item in argument.value)
    return bool(argument.value) and (pairs or bool(_ITEMS.search(argument.name)))


# ---------------------------------------------------------------------------- labels and masks
def _changed(case: Examination, position: int, role: Role) -> Iterator[DegenerateBatch]:
    inputs = case.small
    name = inputs.arguments[position].name
    value = inputs.values[position].detach()
    if value.numel() < 2 or value.is_complex():
        return

    def batch(new: Tensor, words: str, kind: Degeneracy, *, counted: bool = True) -> Any:
        share = _share(value, new) if counted else None
        values = _with(inputs, {position: new.to(value.dtype)})
        return DegenerateBatch(values, f"{words} in `{name}`", kind, share)

    ignored = _ignored_label(case, value)
    if ignored is not None:
        words = f"every label is the ignored one ({ignored})"
        yield batch(torch.full_like(value, ignored), words, "nothing counts", counted=False)
    domain = domain_of(value.double(), name)
    if value.dtype is torch.bool or domain.kind is Kind.BINARY:
        if not _is_padding(value):
            yield from _all_and_none(value, batch)
    elif domain.kind is Kind.SIGN:
        yield batch(torch.ones_like(value), "everything is 1", "one class")
        yield batch(-torch.ones_like(value), "everything is -1", "one class")
    elif domain.kind is Kind.PROBABILITY and domain_of(value).kind is Kind.PROBABILITY:
        if bool(((value == 0) | (value == 1)).all()):
            yield batch(
                _one_class(value, domain), "every sample is of the first class", "one class"
            )
    elif _is_whole(value) and role != "index":
        kept = value if ignored is None else value[value != ignored]
        if kept.numel():
            first = int(kept.min())
            yield batch(torch.full_like(value, first), f"every label is {first}", "one class")
            yield from _alone(value, kept, batch)
    elif role == "target" and value.is_floating_point() and domain.is_free:
        yield from _flat_targets(value, domain, batch)
    elif role == "weight" and bool((value == 0).any()):
        yield batch(torch.zeros_like(value), "every weight is 0", "nothing counts")


def _flat_targets(value: Tensor, domain: Domain, batch: Any) -> Iterator[DegenerateBatch]:
    """Numbers to predict that are all the same, or 0 where the inputs show numbers around it."""
    first = float(value.reshape(-1)[0])
    flat = torch.full_like(value, first)
    yield batch(flat, f"everything is {first:.4g}", "one class", counted=False)
    if domain.kind in (Kind.REAL, Kind.NONNEGATIVE):
        one = value.clone()
        one[0] = 0
        yield batch(one, "the first sample is 0", "one class", counted=False)
        yield batch(torch.zeros_like(value), "everything is 0", "one class", counted=False)


def _alone(value: Tensor, kept: Tensor, batch: Any) -> Iterator[DegenerateBatch]:
    """One sample is the only one of its class, so that it has no partner."""
    others = kept[kept != kept[0]] if value.dim() == 1 and len(kept) == len(value) else kept[:0]
    if others.numel():
        one = torch.where(value == value[0], others[0], value)
        one[0] = value[0]
        yield batch(one, "one sample is the only one of its class", "one class", counted=False)


def _all_and_none(value: Tensor, batch: Any) -> Iterator[DegenerateBatch]:
    if bool((value == 0).any()):
        yield batch(torch.zeros_like(value), "everything is 0", "nothing counts")
        if value.dim() > 1 and value.shape[0] > 1 and value.shape[1:].numel() > 1:
            one = value.clone()
            one[0] = 0
            yield batch(one, "everything is 0 for one sample", "nothing counts")
    if bool((value != 0).any()):
        yield batch(torch.ones_like(value), "everything is 1", "one class")


def _share(value: Tensor, new: Tensor) -> float:
    """How many of all batches are like ``new`` if samples are drawn one by one.

    A sample is a row. Of single numbers the inputs show how often each comes; that a whole row is
    constant they may never have shown, which is no proof that it cannot be.
    """
    if value.dim() == 0:
        return 1.0
    rows, wanted = value.reshape(len(value), -1), new.reshape(len(value), -1)
    alike = int((rows == wanted).all(1).sum())
    if rows.shape[1] == 1:
        return float((alike / len(rows)) ** len(rows))
    if alike == len(rows) - 1:
        return 1 / (len(rows) + 2)
    return float(((alike + 1) / (len(rows) + 2)) ** len(rows))


def _is_whole(value: Tensor) -> bool:
    return not value.is_floating_point() and value.dtype is not torch.bool


def _one_class(value: Tensor, domain: Domain) -> Tensor:
    assert domain.axis is not None
    new = torch.zeros_like(value)
    new.select(domain.axis, 0).fill_(1)
    return new


def _ignored_label(case: Examination, value: Tensor) -> int | None:
    """The label that the loss declares as ignored, or that the inputs show to be none."""
    if not _is_whole(value):
        return None
    option = case.subject.option("ignore_index")
    if isinstance(option, int) and not isinstance(option, bool):
        return option
    if bool((value == VOID).any()) and bool((value < VOID / 2).any()):
        return VOID
    low = int(value.min())
    # -1 and 1 alone are signs.
    return low if low < 0 and bool((value >= 0).any()) and bool((value.abs() != 1).any()) else None


def _is_padding(value: Tensor) -> bool:
    """Whether a mask only tells the length of each sequence, none of which is empty."""
    if value.dim() < 2 or value.shape[1] < 2:
        return False
    rows = value.reshape(value.shape[0], value.shape[1], -1)[..., 0].long()
    return bool((rows[:, :-1] >= rows[:, 1:]).all()) and bool((rows[:, 0] == 1).all())


# ---------------------------------------------------------------------------- selections
def _no_indices(inputs: Inputs) -> Iterator[DegenerateBatch]:
    """No matches: lists of indices, as long as no prediction is, hold nothing."""
    batches = {inputs.values[i].shape[0] for i in inputs.differentiable if inputs.values[i].dim()}
    times = {inputs.values[i].shape[1] for i in inputs.differentiable if inputs.values[i].dim() > 1}
    roles = roles_of(inputs)
    groups: dict[int, list[tuple[int, int]]] = {}
    for position, argument in enumerate(inputs.arguments):
        value = argument.value
        if isinstance(value, Tensor) and not argument.differentiable and value.dim():
            # Labels may run along the second axis of a prediction, indices do not.
            named = roles[position] == "index" or bool(_ITEMS.search(argument.name))
            axis = _axis_of_items(value)
            taken = batches if named else batches | times
            if _is_whole(value) and value.numel() and value.shape[axis] not in taken:
                groups.setdefault(value.shape[axis], []).append((position, axis))
    for size, items in groups.items():
        names = " and ".join(f"`{inputs.arguments[i].name}`" for i, _ in items)
        empty = {
            i: _emptied(inputs.values[i], axis) for i, axis in (*items, *_beside(inputs, size))
        }
        words = f"{names} {'holds' if len(items) == 1 else 'hold'} nothing"
        yield DegenerateBatch(_with(inputs, empty), words, "nothing selected")


def _axis_of_items(value: Tensor) -> int:
    """Which axis counts the items: the edges of a graph are a matrix of two rows."""
    return 1 if value.dim() == 2 and value.shape[0] == 2 < value.shape[1] else 0


def _beside(inputs: Inputs, size: int) -> Iterator[tuple[int, int]]:
    """What comes with so many indices: the boxes beside the labels of the boxes."""
    for position, argument in enumerate(inputs.arguments):
        value = argument.value
        if isinstance(value, Tensor) and not argument.differentiable and not _is_whole(value):
            if value.dim() and value.shape[0] == size:
                yield position, 0


def _emptied(value: Tensor, axis: int) -> Tensor:
    return value.detach().narrow(axis, 0, 0)


# ---------------------------------------------------------------------------- few samples
def _few_samples(case: Examination) -> Iterator[DegenerateBatch]:
    """The last batch of an epoch may hold one sample; a filter may leave none."""
    batch = batch_of(case)
    if batch is None or batch.size < 2:
        return
    values = case.small.values
    yield DegenerateBatch(batch.rows(values, [0]), "the batch holds one sample", "one sample")
    if any(operation.name == "pdist" for operation in case.trace.operations):
        return  # torch 2.13: the backward pass of `pdist` without samples ends the process
    yield DegenerateBatch(batch.rows(values, []), "the batch holds no sample", "no samples")
