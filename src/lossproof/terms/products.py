"""Inner products of long rows, added up in blocks so that float32 does not lose them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor

BLOCK = 1 << 12
"""Columns in a block: a product of float32 rows as long as this is right to about 1e-7, and the
blocks are added in float64. One product over fifty million columns loses two digits of seven."""
PANEL = 1 << 20
"""Numbers that are gathered at a time: few enough to stay in the processor's cache."""


def products_of_vectors(vectors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """The inner products of every two of K vectors, in float64 where the device has it.

    The vectors are not stacked: K long vectors would be written to memory once more.

    Args:
        vectors: K vectors of P numbers, floating point of any precision.
        dtype: what the products within a block are computed in; without it in the vectors' own
            precision, and half precision in float32.

    Returns:
        A matrix of K x K.
    """
    first = vectors[0]
    total = first.new_zeros((len(vectors), len(vectors)), dtype=solving_dtype(first.device))
    panel = max(PANEL // len(vectors), BLOCK)
    for part in zip(*(torch.split(vector, panel) for vector in vectors), strict=True):
        rows = at_least_single(torch.stack(part), dtype)
        total += products_in_blocks(rows, total.dtype)
    return total


def products_in_blocks(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """``rows @ rows.T``, the products of the blocks added up in another dtype."""
    total = rows.new_zeros((rows.shape[0], rows.shape[0]), dtype=dtype)
    whole = rows.shape[1] // BLOCK * BLOCK
    if whole:
        blocks = rows[:, :whole].view(rows.shape[0], -1, BLOCK).transpose(0, 1)
        total += torch.bmm(blocks, blocks.mT).sum(0, dtype=dtype)
    if whole < rows.shape[1]:
        rest = rows[:, whole:]
        total += (rest @ rest.T).to(dtype)
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
