"""When the pairs of a batch are gone through in blocks, and in which.

The matrix of all pairs of a large batch is most of what a loss of pairs takes, in memory and, on a
CPU, in time. In blocks it is never there as a whole. A small batch, and whatever looks at the
operations themselves (compiled graphs, ``torch.func``, forward mode), takes the plain formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from lossproof.write.sweeping import observed

Tensor = torch.Tensor

MANY_ON_CPU = 1 << 17
"""Pairs from which on blocks of distances are faster: of 362 rows."""
MANY_ELSEWHERE = 1 << 24
"""The same on an accelerator, where it is the memory that counts: of 4,096 rows."""
TILE_ON_CPU = 1 << 16
"""Pairs of a block, for each thread: a few matrices of this size stay in the cache."""
TILE_ELSEWHERE = 1 << 22


def in_blocks(pairs: int, tensors: Sequence[Tensor], many_on_cpu: int | None = None) -> bool:
    """Whether so many pairs of these tensors are gone through in blocks.

    Args:
        pairs: how many.
        tensors: the rows.
        many_on_cpu: from how many on blocks are no slower on a CPU.
    """
    if torch.compiler.is_compiling() or tensors[0].is_meta:
        return False
    many = MANY_ELSEWHERE
    if tensors[0].device.type == "cpu":
        many = MANY_ON_CPU if many_on_cpu is None else many_on_cpu
    return pairs >= many and not observed(tensors)


def tile_size(device: torch.device) -> int:
    """How many pairs go into a block."""
    return TILE_ON_CPU * torch.get_num_threads() if device.type == "cpu" else TILE_ELSEWHERE


def tiles(
    rows: range, columns: range, device: torch.device, *, once: bool = False
) -> Iterator[tuple[slice, slice]]:
    """The square blocks of a matrix of pairs.

    Args:
        rows: the numbers of its rows.
        columns: those of its columns.
        device: where the blocks are computed.
        once: leave out the blocks below the diagonal, of a matrix that is symmetric.
    """
    side = max(1, int(tile_size(device) ** 0.5))
    for row in range(rows.start, rows.stop, side):
        for column in range(row if once else columns.start, columns.stop, side):
            yield (
                slice(row, min(row + side, rows.stop)),
                slice(column, min(column + side, columns.stop)),
            )


def strips(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Blocks of whole rows of a matrix of pairs."""
    together = max(1, tile_size(device) // max(1, columns))
    for row in range(0, rows, together):
        yield slice(row, min(row + together, rows))
