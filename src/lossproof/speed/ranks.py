"""Batches that are spread over ranks: the rows of all of them, and which are this rank's own.

What is gathered stays in the graph: the gradients that the ranks find for a row are added up on the
rank that it belongs to. ``DistributedDataParallel`` then takes the mean over the ranks, so that a
step is that of the mean of the ranks' losses.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from lossproof.write.arguments import integer

Tensor = torch.Tensor
AcrossRanks = Any
"""``True``, ``False`` or a process group."""


@dataclass(frozen=True)
class Share:
    """The rows of this rank among those of all ranks, in the order of the ranks.

    Args:
        counts: how many rows each rank has.
        rank: this rank.
    """

    counts: tuple[int, ...]
    rank: int

    @property
    def start(self) -> int:
        """The number of the first row of this rank."""
        return sum(self.counts[: self.rank])

    @property
    def stop(self) -> int:
        """The number behind its last."""
        return self.start + self.counts[self.rank]

    @property
    def total(self) -> int:
        """How many rows all ranks have."""
        return sum(self.counts)

    def numbers(self, device: torch.device | str | None = None) -> Tensor:
        """The numbers of the rows, int64."""
        return torch.arange(self.start, self.stop, device=device)


def share_of_rank(
    count: int, across_ranks: AcrossRanks = True, *, device: torch.device | str | None = None
) -> Share:
    """Which rows of the whole batch are this rank's; every rank has to ask.

    Args:
        count: how many rows this rank has; the ranks may have different numbers.
        across_ranks: ``True`` for all ranks, or a process group. A process that is alone has all.
        device: where the ranks tell each other; what the process group works on, as ``"cuda"``.

    Raises:
        TypeError: an argument is not of the type above.

    Example:
        >>> from lossproof.speed import share_of_rank
        >>> share_of_rank(8)
        Share(counts=(8,), rank=0)
    """
    integer("count", count, minimum=0)
    group = group_of(across_ranks)
    if group is None:
        return Share((count,), 0)
    counts = _told(group, [count], torch.device(device or "cpu"))[:, 0]
    return Share(tuple(counts.tolist()), dist.get_rank(group))


def usable_ranks(value: AcrossRanks) -> AcrossRanks:
    """``True``, ``False`` or a process group.

    Raises:
        TypeError: it is something else.
    """
    groups = (dist.ProcessGroup,) if dist.is_available() else ()
    if not isinstance(value, (bool, *groups)):
        raise TypeError(
            f"`across_ranks` must be True, False or a process group, got {type(value).__name__}"
        )
    return value


def group_of(across_ranks: AcrossRanks) -> Any:
    """The process group, or ``None`` for a process that is alone."""
    usable_ranks(across_ranks)
    if across_ranks is False or not dist.is_available() or not dist.is_initialized():
        return None
    group = dist.group.WORLD if across_ranks is True else across_ranks
    return group if dist.get_world_size(group) > 1 else None


def gathered(name: str, tensors: Sequence[Tensor], group: Any) -> tuple[list[Tensor], Share]:
    """Tensors with the rows of all ranks, in the order of the ranks.

    Args:
        name: what they are called in an error.
        tensors: those of this rank; all have the same number of rows.
        group: the ranks.

    Raises:
        ValueError: on another rank they differ in more than the number of rows. All ranks raise it.
    """
    count = tensors[0].shape[0]
    kinds = [
        (tuple(t.shape[1:]), str(t.dtype), t.requires_grad and torch.is_grad_enabled())
        for t in tensors
    ]
    told = _told(group, [count, zlib.crc32(repr(kinds).encode())], tensors[0].device)
    if (told[:, 1] != told[0, 1]).any():
        here = ", ".join(
            f"{dtype} of shape [N, {', '.join(map(str, shape))}]"
            + (" with gradient" if needs else "")
            for shape, dtype, needs in kinds
        )
        raise ValueError(
            f"`{name}` must be the same on all ranks but for the number of rows: in shape, dtype "
            f"and whether it requires a gradient; on rank {dist.get_rank(group)} it is {here}"
        )
    share = Share(tuple(told[:, 0].tolist()), dist.get_rank(group))
    return [_Gathered.apply(group, share, one) for one in tensors], share  # type: ignore[no-untyped-call]


def _told(group: Any, numbers: Sequence[int], device: torch.device) -> Tensor:
    """The numbers of all ranks, a row for each, on the CPU."""
    own = torch.tensor(numbers, device=device)
    rows = own.new_empty(dist.get_world_size(group), len(numbers))
    dist.all_gather(list(rows), own, group=group)
    return rows.cpu()


class _Gathered(torch.autograd.Function):
    """The rows of all ranks."""

    @staticmethod
    def forward(ctx: Any, group: Any, share: Share, own: Tensor) -> Tensor:
        ctx.group, ctx.share = group, share
        padded = own.new_zeros(max(share.counts), *own.shape[1:])
        padded[: len(own)] = own
        pieces = [torch.empty_like(padded) for _ in share.counts]
        dist.all_gather(pieces, padded, group=group)
        return torch.cat([piece[:n] for piece, n in zip(pieces, share.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None, Tensor]:
        own: Tensor = _SumOfOwn.apply(ctx.group, ctx.share, upstream)  # type: ignore[no-untyped-call]
        return None, None, own


class _SumOfOwn(torch.autograd.Function):
    """The sum over the ranks of what they have for the rows of this one."""

    @staticmethod
    def forward(ctx: Any, group: Any, share: Share, rows: Tensor) -> Tensor:
        ctx.group, ctx.share = group, share
        if rows.device.type == "cpu":  # gloo could not scatter a sum for long
            total = rows.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(total, group=group)
            return total[share.start : share.stop].clone()
        padded = rows.new_zeros(len(share.counts), max(share.counts), *rows.shape[1:])
        for place, own in zip(padded, torch.split(rows, list(share.counts)), strict=True):
            place[: len(own)] = own
        total = torch.empty_like(padded[0])
        dist.reduce_scatter(total, list(padded), group=group)
        return total[: share.counts[share.rank]]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None, Tensor]:
        rows: Tensor = _Gathered.apply(ctx.group, ctx.share, upstream)  # type: ignore[no-untyped-call]
        return None, None, rows
