"""The arguments of a call of a chunked loss, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lossproof.speed.heads import Head, LinearHead
from lossproof.speed.item_loss import ItemLoss
from lossproof.write.arguments import same_device, tensor, visible
from lossproof.write.reduction import usable_normalizer

Tensor = torch.Tensor


@dataclass(frozen=True)
class Ignoring:
    """Which target does not count."""

    target: int | None
    given: bool
    """Whether whoever made the chunked loss said so; otherwise it is the loss's own default."""
    by_loss: bool
    """Whether the loss itself leaves it out."""

    @classmethod
    def of(cls, item: ItemLoss, given: int | None) -> Ignoring:
        found = item.option("ignore_index") if given is None else given
        number = found if isinstance(found, int) else None
        return cls(number, given is not None, given is None or item.takes("ignore_index"))

    def counts(self, target: Tensor | None) -> Tensor | None:
        """Which items of a target count, where that is a question."""
        if self.target is None or target is None:
            return None
        if target.is_floating_point() and not self.given:
            return None
        return target != self.target


@dataclass(frozen=True)
class Call:
    """What a call is about, with one axis for all rows."""

    lead: torch.Size
    hidden: Tensor
    arguments: tuple[Tensor, ...]
    weight: Tensor | None
    mask: Tensor | None
    """Which items count, where a row has several."""
    keep: Tensor | None
    """Which rows count."""
    shared: Mapping[str, Tensor]
    options: Mapping[str, Any]
    normalizer: float | Tensor | None
    counts_itself: bool
    """Whether what counts is the loss's own affair."""

    @property
    def target(self) -> Tensor | None:
        """The first argument of the loss after the logits."""
        return self.arguments[0] if self.arguments else None


def read_call(
    hidden: Any,
    arguments: Sequence[Any],
    weight: Any,
    mask: Any,
    normalizer: Any,
    shared: Mapping[str, Any],
    ignoring: Ignoring,
) -> Call:
    """Read and check the arguments of a call."""
    hidden = tensor("hidden", hidden)
    if not hidden.ndim:
        raise ValueError("`hidden` must have the shape (*, H), got a single number")
    lead = hidden.shape[:-1]
    rows = [_rows_of(f"arguments[{n}]", one, lead, hidden) for n, one in enumerate(arguments)]
    item_weight = None if weight is None else tensor("weight", weight, "number")
    item_mask = None if mask is None else tensor("mask", mask, "bool")
    found = Call(
        lead,
        hidden.reshape(lead.numel(), hidden.shape[-1]),
        tuple(rows),
        None if item_weight is None else _rows_of("weight", item_weight, lead, hidden),
        None if item_mask is None else _rows_of("mask", item_mask, lead, hidden),
        None,
        {name: one for name, one in shared.items() if isinstance(one, Tensor)},
        {name: one for name, one in shared.items() if not isinstance(one, Tensor)},
        usable_normalizer(normalizer),
        weight is None and mask is None and normalizer is None and ignoring.by_loss,
    )
    return without_ignored(found, ignoring)


def without_ignored(call: Call, ignoring: Ignoring) -> Call:
    """Tell rows that do not count from items of a row that do not."""
    keep, mask = None, call.mask
    if mask is not None and mask.ndim == 1:
        keep, mask = mask, None
    target = call.target
    counts = ignoring.counts(target)
    if counts is not None and target is not None:
        if counts.ndim == 1:
            keep = counts if keep is None else keep & counts
        else:
            mask = counts if mask is None else mask & counts
        if not ignoring.by_loss:
            target = torch.where(counts, target, 0)
            call = replace(call, arguments=(target, *call.arguments[1:]))
    if keep is not None and visible(keep) and bool(keep.all()):
        keep = None
    if mask is not None:
        arguments = tuple(_finite_where_masked(one, mask) for one in call.arguments)
        call = replace(call, arguments=arguments)
    return replace(call, keep=keep, mask=mask)


def _finite_where_masked(argument: Tensor, mask: Tensor) -> Tensor:
    """What does not count may be NaN, and would make the gradients of what is beside it NaN."""
    if argument.shape != mask.shape or not argument.is_floating_point():
        return argument
    return torch.where(mask | argument.isfinite(), argument, 0.0)


def refuse_unlike(call: Call, head: Head) -> None:
    """Say in words that a linear head does not fit the hidden states."""
    if not isinstance(head, LinearHead) or head.body is not None:
        return
    width, hidden = head.weight.shape[1], call.hidden
    if hidden.shape[1] != width:
        raise ValueError(
            f"`hidden` must have the shape (*, {width}) for this `head`, "
            f"got {[*call.lead, hidden.shape[1]]}"
        )
    autocast = torch.amp.is_autocast_available(hidden.device.type) and torch.is_autocast_enabled(
        hidden.device.type
    )
    if hidden.dtype != head.weight.dtype and not autocast:
        raise TypeError(
            f"`hidden` must have the dtype of `head`, {head.weight.dtype}, got {hidden.dtype}"
        )


def _rows_of(name: str, value: Any, lead: torch.Size, hidden: Tensor) -> Tensor:
    """A tensor that has the rows of the hidden states, with one axis for all of them."""
    given = tensor(name, value, "any")
    if given.shape[: len(lead)] != lead:
        shared = (
            "weights of the classes belong to the loss: functools.partial(loss, weight=...)"
            if name == "weight"
            else "what all rows share is given by name"
        )
        raise ValueError(
            f"`{name}` must begin with the axes {list(lead)} of `hidden`, got the shape "
            f"{list(given.shape)}; {shared}"
        )
    same_device(hidden, given, ("hidden", name))
    return given.reshape(lead.numel(), *given.shape[len(lead) :])
