"""Inner products of long rows, added up in blocks so that float32 does not lose them."""

from __future__ import annotations

import torch

from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor

BLOCK = 1 << 12
"""Columns in a block: a product of float32 rows as long as this is right to about 1e-7, and the
blocks are added in float64. One product over fifty million columns loses two digits of seven."""
PANEL = 1 << 20
"""Columns whose blocks are multiplied together, which bounds what conversions need of memory."""


def products_of_rows(rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The inner products of every two of K rows, in float64 where the device has it.

    Args:
        rows: K rows of P numbers, floating point of any precision.
        dtype: what the products within a block are computed in; without it in the rows' own
            precision, and half precision in float32.

    Returns:
        A matrix of K x K.
    """
    count = rows.shape[0]
    total = rows.new_zeros((count, count), dtype=solving_dtype(rows.device))
    for panel in torch.split(rows, PANEL, dim=1):
        part = at_least_single(panel, dtype)
        whole = part.shape[1] // BLOCK * BLOCK
        if whole:
            blocks = part[:, :whole].unflatten(1, (-1, BLOCK)).transpose(0, 1)  # type: ignore[no-untyped-call]
            total += torch.bmm(blocks, blocks.mT).sum(0, dtype=total.dtype)
        if whole < part.shape[1]:
            rest = part[:, whole:]
            total += (rest @ rest.T).to(total.dtype)
    return total


def at_least_single(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The values in a dtype, or in float32 where their own has too few digits to add up in."""
    if dtype is not None:
        return values.to(dtype)
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


SMALLEST, LARGEST = 1e-26, 1e34
"""Squares of norms in this range were computed from numbers that float32 holds to all digits."""


def out_of_range(squares: Tensor) -> Tensor:
    """For each squared norm whether it is beyond what float32 can be trusted with."""
    sizes = squares.abs()
    return (sizes < SMALLEST) | ~(sizes < LARGEST)
