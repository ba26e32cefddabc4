"""Inner products of long rows, added up in blocks so that float32 does not lose them."""

from __future__ import annotations

import torch

from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor

BLOCK = 1 << 15
"""Columns in a block: a product of float32 rows as long as this is right to about 1e-6, and the
blocks are added in float64. One product over fifty million columns loses two digits of seven."""


def inner_products(
    rows: Tensor, others: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """The inner products of rows, ``rows @ others.T``, in float64 where the device has it.

    Args:
        rows: K rows of P numbers, floating point of any precision.
        others: L rows of P numbers; without them ``rows`` again.
        dtype: what the products within a block are computed in; without it in the rows' own
            precision, and half precision in float32.

    Returns:
        A matrix of K x L.
    """
    other = rows if others is None else others
    summing = solving_dtype(rows.device)
    total = rows.new_zeros((rows.shape[0], other.shape[0]), dtype=summing)
    for start in range(0, rows.shape[1], BLOCK):
        left = at_least_single(rows[:, start : start + BLOCK], dtype)
        right = left
        if others is not None:
            right = at_least_single(others[:, start : start + BLOCK], dtype)
        total += (left @ right.T).to(summing)
    return total


def at_least_single(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The values in a dtype, or in float32 where their own has too few digits to add up in."""
    if dtype is not None:
        return values.to(dtype)
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


SMALLEST, LARGEST = 1e-26, 1e34
"""Squares of norms in this range were computed from numbers that float32 holds to all digits."""


def out_of_range(products: Tensor) -> Tensor:
    """For each term whether its squared norm is beyond what float32 can be trusted with."""
    squares = products.diagonal().abs()
    return (squares < SMALLEST) | ~(squares < LARGEST)
