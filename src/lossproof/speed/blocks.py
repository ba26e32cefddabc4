"""How many rows of a matrix are computed at a time, so that a block fits into a budget of bytes."""

from __future__ import annotations

import math

BUDGET = 8 << 20
"""Bytes for a block: its values and what autograd keeps for their gradient. Smaller blocks stay in
the caches of a CPU; still smaller ones cost time in calls."""
FEWEST = 32
"""Rows of a block, whatever they cost: fewer are no product of matrices any more."""


def block_of(
    sizes: tuple[int, int], pair_bytes: int, block_size: int | None = None
) -> tuple[int, int]:
    """Rows and columns of a block.

    Args:
        sizes: rows and columns of the matrix.
        pair_bytes: what an element takes.
        block_size: how many of both, where the user says it.
    """
    if block_size is not None:
        return min(sizes[0], block_size), min(sizes[1], block_size)
    elements = max(BUDGET // pair_bytes, FEWEST * FEWEST)
    side = math.isqrt(elements)
    columns = min(sizes[1], max(side, elements // sizes[0]))
    return min(sizes[0], max(FEWEST, elements // columns)), columns
