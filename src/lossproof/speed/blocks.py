"""How many rows of a matrix are computed at a time, so that a block fits into a budget of bytes."""

from __future__ import annotations

import math

import torch

CPU_BUDGET = 8 << 20
"""Bytes for a block: its values and what autograd keeps for their gradient. On a CPU the time is
the same from 1 MiB to 32 MiB."""
DEVICE_BUDGET = 64 << 20
"""The same elsewhere, where a block has to keep many more units busy."""
UNCUT = 4.0
"""A matrix of up to so many blocks is computed as one: to compute it a second time for the gradient
would cost more than its memory traffic."""
UNCUT_EXTREMES = 0.25
"""The same where only a few elements are computed a second time."""
FEWEST = 32
"""Rows of a block, whatever they cost: fewer are no product of matrices any more."""
FEW_PAIRS = 1 << 14
"""A matrix that is not worth cutting, of 128 rows and columns."""


def block_of(
    sizes: tuple[int, int],
    pair_bytes: int,
    device: torch.device,
    block_size: int | None = None,
    *,
    uncut: float = UNCUT,
) -> tuple[int, int] | None:
    """Rows and columns of a block, or ``None`` if the matrix is better not cut.

    Args:
        sizes: rows and columns of the matrix.
        pair_bytes: what an element takes.
        device: where it is computed.
        block_size: how many of both, where the user says it.
        uncut: up to how many blocks are not cut.
    """
    if block_size is not None:
        return None if max(sizes) <= block_size else (block_size, block_size)
    budget = CPU_BUDGET if device.type == "cpu" else DEVICE_BUDGET
    pairs = max(budget // pair_bytes, FEWEST * FEWEST)
    if sizes[0] * sizes[1] <= uncut * pairs:
        return None
    columns = min(sizes[1], max(math.isqrt(pairs), pairs // sizes[0]))
    return min(sizes[0], max(1, pairs // columns)), columns
