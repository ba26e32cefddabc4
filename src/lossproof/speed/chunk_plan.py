"""One call of a chunked loss: its tensors in a fixed order, and how a chunk of rows is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lossproof.speed.heads import Head
from lossproof.speed.item_loss import ItemLoss
from lossproof.speed.softmax_slope import SoftmaxSlope
from lossproof.speed.surroundings import Surroundings
from lossproof.write.arguments import fits
from lossproof.write.precision import widened

Tensor = torch.Tensor
LEAST_ROWS = 128
"""Products of fewer rows take more time than the memory is worth."""
CACHE, ROOM = 1 << 22, 1 << 25
"""Bytes of logits that a loss is given at a time: on a CPU, and on an accelerator."""
Part = slice | Tensor
"""Some rows: those between two numbers, or those of these numbers."""


@dataclass
class Plan:
    """How the rows of a call become values.

    The tensors of a call lie in one sequence: first those that have a row for each item (the hidden
    states, the arguments of the loss, the weight, the mask), then those that all items share (of
    the head, of the head of the target, of the loss, given by name, closed over).
    """

    item: ItemLoss
    head: Head
    target_head: Head | None
    loss_parameters: tuple[str, ...]
    shared_names: tuple[str, ...]
    options: Mapping[str, Any]
    captured: tuple[Tensor, ...]
    arguments: int
    """How many arguments of the loss have rows, the hidden states not among them."""
    weighted: bool
    masked: bool
    count: int
    """How many rows there are."""
    index: Tensor | None
    """The rows that count; ``None`` where all are gone through."""
    rows: int
    """How many rows a chunk has."""
    surroundings: Surroundings
    slope: SoftmaxSlope | None = None
    compiled: Callable[..., Any] | None = None
    draws: bool = False
    """Whether loss or head draw random numbers: computed again, they must be asked for in the same
    order and as many at a time."""
    loss_draws: bool = False
    """Whether the loss does."""
    overwrites: bool = False
    """Whether the loss writes to its logits, so that it needs some of its own."""
    item_shape: tuple[int, ...] = field(default=())
    """The axes of the values after the first, known once a chunk was computed."""

    @property
    def row_tensors(self) -> int:
        """How many of the tensors have rows."""
        return 1 + self.arguments + self.weighted + self.masked

    def split(self, tensors: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """What has rows, and what is shared."""
        return tensors[: self.row_tensors], tensors[self.row_tensors :]

    def parts(self, *, most: int | None = None) -> Iterator[Part]:
        """The chunks; where there are no rows, one that has none.

        Args:
            most: how many rows a chunk may have, where that is less than it has.
        """
        step = self.rows if most is None else min(most, self.rows)
        if self.index is not None:
            chunks = range(0, len(self.index), step) if len(self.index) else (0,)
            yield from (self.index[start : start + step] for start in chunks)
            return
        for start in range(0, self.count, step) if self.count else (0,):
            yield slice(start, min(start + step, self.count))

    def of_head(self, shared: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors of the head."""
        return shared[: len(self.head.tensors)]

    def leaves(self, shared: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
        """What stands for the shared tensors in the graph of a chunk.

        What a function closes over can be replaced by nothing: it stands for itself.
        """
        own = len(shared) - len(self.captured)
        found = [
            tensor.detach().requires_grad_(need)
            for tensor, need in zip(shared[:own], needed, strict=False)
        ]
        return [*found, *self.captured]

    def of_target_head(self, shared: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors of the head of the target."""
        return shared[len(self.head.tensors) : self.heads]

    def beyond_heads(self, shared: Sequence[Tensor]) -> Sequence[Tensor]:
        """The shared tensors that the loss takes."""
        return shared[self.heads :]

    @property
    def heads(self) -> int:
        """How many of the shared tensors are those of the heads."""
        of_target = () if self.target_head is None else self.target_head.tensors
        return len(self.head.tensors) + len(of_target)

    def through_target_head(
        self, rows: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """The rows as the loss takes them: the target through its head, where it has one."""
        if self.target_head is None:
            return rows
        target = widened(self.target_head.logits(rows[1], self.of_target_head(shared)))
        return [rows[0], target, *rows[2:]]

    def values(self, logits: Tensor, rows: Sequence[Tensor], of_loss: Sequence[Tensor]) -> Tensor:
        """The values of the items of a chunk, before weights and masks."""
        values = self.called(logits, rows, of_loss)
        if not isinstance(values, Tensor):
            raise TypeError(f"`loss` must give a tensor, got {type(values).__name__}")
        if not values.ndim or values.shape[0] != logits.shape[0]:
            raise ValueError(
                f"`loss` must give a value for each row, {logits.shape[0]} or more in the first "
                f"axis, got the shape {list(values.shape)}: let it take `reduction` as torch's "
                "losses do, or leave the sum or mean over the rows to `chunk`"
            )
        self.item_shape = tuple(values.shape[1:])
        return widened(values)  # type: ignore[no-any-return]

    def called(
        self,
        logits: Tensor,
        rows: Sequence[Tensor],
        of_loss: Sequence[Tensor],
        reduction: str = "none",
    ) -> Tensor:
        """The loss, called for these rows."""
        logits = widened(logits.clone() if self.overwrites else logits)
        arguments = [logits, *rows[1 : 1 + self.arguments]]
        rest = iter(of_loss)
        parameters = {name: next(rest) for name in self.loss_parameters}
        by_name = {name: next(rest) for name in self.shared_names}
        return self.item.values(parameters, arguments, {**self.options, **by_name}, reduction)

    def counted(self, values: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """The values times their weights, and 0 where the mask is false."""
        factors = list(rows[1 + self.arguments :])
        weight = factors.pop(0) if self.weighted else None
        if factors:
            mask = fits("mask", with_axes(factors[0], values), values, kind="bool")
            values = torch.where(mask, values, 0.0)
            if weight is not None:  # what does not count may have any weight, NaN among them
                weight = torch.where(mask, with_axes(weight, values), 0.0)
        if weight is not None:
            values = values * fits("weight", with_axes(weight, values), values)
        return values

    def recorded_values(self, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The weighted values of some rows, to be differentiated twice or more.

        Where random numbers are drawn, those of a sweep over the same rows.
        """
        if self.draws:
            return self.row_values_in_blocks(rows, shared)
        logits = self.head.logits(rows[0], self.of_head(shared))
        rows = self.through_target_head(rows, shared)
        return self.counted(self.values(logits, rows, self.beyond_heads(shared)), rows)

    def row_values_in_blocks(self, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The same with the loss given a few rows of logits at a time, as a sweep does it.

        That is for memory where nothing is recorded, and for the same random numbers.
        """
        logits = self.head.logits(rows[0], self.of_head(shared))
        rows = self.through_target_head(rows, shared)
        of_loss = self.beyond_heads(shared)
        found = []
        for block in blocks(logits):
            own = [rows[0], *(row[block] for row in rows[1:])]
            found.append(self.counted(self.values(logits[block], own, of_loss), own))
        return torch.cat(found)

    def whole_values(self, tensors: Sequence[Tensor]) -> Tensor:
        """The weighted values of all rows at once; 0 for those that do not count."""
        rows, shared = self.split(tensors)
        whole = slice(None) if self.index is None else self.index
        values = torch.cat(
            [
                self.recorded_values([taken(row, part) for row in rows], shared)
                for part in (self.parts() if self.draws else (whole,))
            ]
        )
        if self.index is None:
            return values
        return values.new_zeros(len(rows[0]), *values.shape[1:]).index_copy(0, self.index, values)


def blocks(logits: Tensor) -> Iterator[slice]:
    """The rows of a chunk, a few at a time: as many whether they are widened yet or not."""
    room = CACHE if logits.device.type == "cpu" else ROOM
    row = max(1, logits[:1].numel() * max(4, logits.element_size()))
    rows = max(1, room // row)
    for start in range(0, len(logits), rows) if len(logits) else (0,):
        yield slice(start, start + rows)


def taken(tensor: Tensor, part: Part) -> Tensor:
    """These rows of a tensor."""
    return tensor[part] if isinstance(part, slice) else tensor.index_select(0, part)


def put(into: Tensor, part: Part, rows: Tensor) -> None:
    """Write these rows."""
    if isinstance(part, slice):
        into[part] = rows
    else:
        into.index_copy_(0, part, rows.to(into.dtype))


def with_axes(factor: Tensor, values: Tensor) -> Tensor:
    """A weight or mask of the rows, with an axis for each of the values."""
    return factor.reshape(*factor.shape, *(1,) * (values.ndim - factor.ndim))
