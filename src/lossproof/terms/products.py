"""Inner products of long rows, added up in blocks so that float32 does not lose them."""

from __future__ import annotations

import torch

from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor

BLOCK = 1 << 15
"""Columns in a block: a product of float32 rows as long as this is right to about 1e-6, and the
blocks are added in float64. One product over fifty million columns loses two digits of seven."""


def inner_products(rows: Tensor, others: Tensor | None = None) -> Tensor:
    """The inner products of rows, ``rows @ others.T``, in float64 where the device has it.

    Args:
        rows: K rows of P numbers, floating point of any precision.
        others: L rows of P numbers; without them ``rows`` again.

    Returns:
        A matrix of K x L.
    """
    other = rows if others is None else others
    dtype = solving_dtype(rows.device)
    total = rows.new_zeros((rows.shape[0], other.shape[0]), dtype=dtype)
    for start in range(0, rows.shape[1], BLOCK):
        left = _at_least_single(rows[:, start : start + BLOCK])
        right = left if others is None else _at_least_single(other[:, start : start + BLOCK])
        total += (left @ right.T).to(dtype)
    return total


def _at_least_single(block: Tensor) -> Tensor:
    """Half precision has too few digits to be multiplied and added in."""
    return block.float() if block.dtype in (torch.float16, torch.bfloat16) else block
