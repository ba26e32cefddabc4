"""Which rows of a matrix belong to which term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

Tensor = torch.Tensor


class Owners:
    """The terms that the rows of a matrix belong to, segment by segment.

    Args:
        segments: for each segment of rows the term it belongs to, and how many rows it has.
        count: the number of terms.
        device: where the matrix lies.
    """

    def __init__(
        self, segments: Sequence[tuple[int, int]], count: int, device: torch.device
    ) -> None:
        self.terms = [term for term, _ in segments]
        self.lengths = [length for _, length in segments]
        self.count = count
        self.device = device
        self._members: dict[torch.dtype, Tensor] = {}

    @cached_property
    def of_rows(self) -> Tensor:
        """The term of each row."""
        terms, lengths = torch.tensor(self.terms), torch.tensor(self.lengths)
        return terms.repeat_interleave(lengths).to(self.device)

    def members(self, dtype: torch.dtype) -> Tensor:
        """A matrix of terms x rows: 1 where the row is the term's, otherwise 0."""
        if dtype not in self._members:
            terms = torch.arange(self.count, device=self.device)
            self._members[dtype] = (terms[:, None] == self.of_rows).to(dtype)
        return self._members[dtype]

    def sums(self, rows: Tensor) -> Tensor:
        """The sum of the rows of each term, terms x columns."""
        total = self.members(rows.dtype) @ rows
        if bool(total.isfinite().all()):
            return total
        # Zero times NaN is NaN: this sum, which takes longer, keeps it in its own term.
        return torch.zeros_like(total).index_add_(0, self.of_rows, rows)

    def segments(self, *matrices: Tensor) -> Iterator[tuple[Any, ...]]:
        """Each segment: its term, and its rows of some matrices."""
        return zip(
            self.terms, *(torch.split(matrix, self.lengths) for matrix in matrices), strict=True
        )

    def parts(self, term: int, *matrices: Tensor) -> list[tuple[Tensor, ...]]:
        """The segments of a term, in each of some matrices with these rows."""
        return [tuple(parts) for owner, *parts in self.segments(*matrices) if owner == term]
