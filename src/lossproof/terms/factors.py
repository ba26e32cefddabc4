r"""Gradients of a matrix kept as factors: the cotangents and the saved input of each layer.

With :math:`g_k = C_k^\top X` all inner products are
:math:`\langle g_k, g_l \rangle = \sum (X X^\top) \circ (C_k C_l^\top)`, and the gradient of
a weighted sum of the terms is :math:`(\sum_k w_k C_k)^\top X`: one product instead of K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lossproof.terms.held import weighted_sum
from lossproof.terms.owners import Owners
from lossproof.terms.plan import TRAFFIC
from lossproof.terms.products import at_least_single, products_of_rows
from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor
Loan = Callable[[tuple[int, ...], Tensor], Tensor]
"""Gives memory of a shape, of another tensor's dtype and device."""


class SharedFactors:
    """One matrix whose gradients share the saved factor: several terms went through the layer.

    Args:
        position: where the parameter stands among the chosen ones.
        parameter: the matrix.
        fixed: the saved factor, rows x columns; of several uses of the matrix stacked.
        cotangents: for each of these terms rows x columns.
        terms: which terms these are.
        count: how many terms there are in all.
        cotangent_left: whether a gradient is ``cotangent.T @ fixed`` or ``fixed.T @ cotangent``.
    """

    def __init__(
        self,
        position: int,
        parameter: Tensor,
        fixed: Tensor,
        cotangents: Tensor,
        terms: Sequence[int],
        count: int,
        cotangent_left: bool,
    ) -> None:
        self.positions = (position,)
        self._parameter = parameter
        self._fixed = fixed
        self._cotangents = cotangents
        self._terms = list(terms)
        self._count = count
        self._left = cotangent_left
        self._known: dict[torch.dtype | None, Tensor] = {}
        self._addends: Tensor | None = None

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        if dtype not in self._known:
            fixed = at_least_single(self._fixed, dtype)
            half, addends = _half_of_products(fixed, at_least_single(self._cotangents, dtype))
            self._known[dtype] = self._placed(half + half.T)
            self._addends = addends
        return self._known[dtype]

    def addends(self) -> Tensor:
        """For each term the squared norms of what its rows add to the gradient, summed."""
        self.products()
        assert self._addends is not None  # known with the products
        total = self._addends.new_zeros(self._count)
        total[self._terms] = self._addends
        return total

    def _placed(self, products: Tensor) -> Tensor:
        """What was computed for these terms, among zeros for the others."""
        if len(self._terms) == self._count:
            return products
        total = products.new_zeros((self._count, self._count))
        at = torch.tensor(self._terms, device=products.device)
        total[at[:, None], at] = products
        return total

    def vanishes(self, term: int) -> bool:
        return term not in self._terms or not bool(self._cotangent(term).any())

    def _cotangent(self, term: int) -> Tensor:
        return self._cotangents[self._terms.index(term)]

    def sums(self) -> Tensor:
        """The sum of the entries of each gradient, K numbers."""
        dtype = solving_dtype(self._fixed.device)
        of_fixed = at_least_single(self._fixed).sum(1).to(dtype)
        sums = at_least_single(self._cotangents).sum(2).to(dtype) @ of_fixed
        total = sums.new_zeros(self._count)
        total[self._terms] = sums
        return total

    def combined(self, weights: Tensor) -> list[Tensor]:
        return [self._gradient(weighted_sum(weights[self._terms], self._cotangents))]

    def rows(self) -> list[Tensor]:
        rows = self._parameter.new_zeros((self._count, *self._parameter.shape))
        for term in self._terms:
            rows[term] = self._gradient(self._cotangent(term))
        return [rows]

    def gradient(self, term: int) -> list[Tensor | None]:
        return [self._gradient(self._cotangent(term)) if term in self._terms else None]

    def _gradient(self, cotangent: Tensor) -> Tensor:
        left, right = (cotangent, self._fixed) if self._left else (self._fixed, cotangent)
        return (left.mT @ right).to(self._parameter.dtype)


class SegmentFactors:
    """One matrix whose gradients come from rows that belong to one term each.

    Args:
        position: where the parameter stands among the chosen ones.
        parameter: the matrix.
        fixed: the saved factor, rows x columns.
        cotangent: rows x columns.
        owners: whose the rows are.
        cotangent_left: whether a gradient is ``cotangent.T @ fixed`` or ``fixed.T @ cotangent``.
        loan: where memory for all gradients comes from, if they are to be written out.
    """

    def __init__(
        self,
        position: int,
        parameter: Tensor,
        fixed: Tensor,
        cotangent: Tensor,
        owners: Owners,
        cotangent_left: bool,
        loan: Loan,
    ) -> None:
        self.positions = (position,)
        self._parameter = parameter
        self._fixed = fixed
        self._cotangent = cotangent
        self._owners = owners
        self._left = cotangent_left
        self._loan = loan
        self._written: Tensor | None = None
        self._known: dict[torch.dtype | None, Tensor] = {}

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        if dtype not in self._known:
            found = self._products_of_rows(dtype) if self._rows_are_cheaper() else None
            if found is None or not bool(found.isfinite().all()):
                found = products_of_rows(self._write().flatten(1), dtype)
            self._known[dtype] = found
        return self._known[dtype]

    def _rows_are_cheaper(self) -> bool:
        """Whether products of rows with rows cost less than to write and read all gradients."""
        rows, count = self._fixed.shape[0], self._owners.count
        widths = self._fixed.shape[1] + self._cotangent.shape[1]
        return rows * rows * widths * 5 // 8 < count * self._parameter.numel() * (count + TRAFFIC)

    def _write(self) -> Tensor:
        """All gradients, written out once: a single product then combines them."""
        if self._written is None:
            shape = (self._owners.count, *self._parameter.shape)
            self._written = self._loan(shape, self._parameter)
            begun: set[int] = set()
            for term, cotangent, fixed in self._owners.segments(self._cotangent, self._fixed):
                gradient, factors = self._written[term], self._factors(cotangent, fixed)
                if gradient.dtype != cotangent.dtype:  # under autocast
                    gradient.copy_(self._dense(term))
                elif term in begun:
                    gradient.addmm_(*factors)
                else:
                    torch.mm(*factors, out=gradient)
                begun.add(term)
            for term in set(range(self._owners.count)) - begun:
                self._written[term].zero_()
        return self._written

    def addends(self) -> Tensor:
        """For each term the squared norms of what its rows add to the gradient, summed."""
        return self._owners.sums(_squares(self._cotangent) * _squares(self._fixed))

    def _products_of_rows(self, dtype: torch.dtype | None) -> Tensor:
        """Sums of the products of rows, over the rows of two terms; the lower triangle, doubled."""
        fixed = at_least_single(self._fixed, dtype)
        cotangent = at_least_single(self._cotangent, dtype)
        members = self._owners.members(fixed.dtype)
        count, rows = members.shape
        half = fixed.new_zeros((count, count), dtype=solving_dtype(fixed.device))
        for start in range(0, rows, ROWS):
            end = min(start + ROWS, rows)
            pairs = fixed[start:end] @ fixed[:end].T
            pairs *= cotangent[start:end] @ cotangent[:end].T
            pairs[:, start:] *= 0.5
            half += (members[:, start:end] @ pairs @ members[:, :end].T).to(half.dtype)
        return half + half.T

    def vanishes(self, term: int) -> bool:
        return not any(bool(part.any()) for (part,) in self._owners.parts(term, self._cotangent))

    def sums(self) -> Tensor:
        """The sum of the entries of each gradient, K numbers."""
        dtype = solving_dtype(self._fixed.device)
        of_rows = self._fixed.to(dtype).sum(1) * self._cotangent.to(dtype).sum(1)
        return self._owners.sums(of_rows)

    def combined(self, weights: Tensor) -> list[Tensor]:
        if self._written is not None:
            return [weighted_sum(weights, self._written)]
        wide = at_least_single(self._cotangent)
        of_rows = weights.to(wide.dtype)[self._owners.of_rows]
        weighted = (wide * of_rows[:, None]).to(self._cotangent.dtype)
        return [self._gradient(weighted, self._fixed)]

    def rows(self) -> list[Tensor]:
        return [torch.stack([self._dense(term) for term in range(self._owners.count)])]

    def gradient(self, term: int) -> list[Tensor | None]:
        return [self._dense(term)]

    def _dense(self, term: int) -> Tensor:
        pairs = self._owners.parts(term, self._cotangent, self._fixed)
        parts = [self._gradient(cotangent, fixed) for cotangent, fixed in pairs]
        return sum(parts[1:], parts[0]) if parts else torch.zeros_like(self._parameter)

    def _gradient(self, cotangent: Tensor, fixed: Tensor) -> Tensor:
        left, right = self._factors(cotangent, fixed)
        return (left @ right).to(self._parameter.dtype)

    def _factors(self, cotangent: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """What a gradient is the product of."""
        return (cotangent.mT, fixed) if self._left else (fixed.mT, cotangent)


def _squares(rows: Tensor) -> Tensor:
    """The squared norm of each row, in float64 where the device has it."""
    norms = torch.linalg.vector_norm(at_least_single(rows), dim=-1)
    squares: Tensor = norms.to(solving_dtype(rows.device)).square()
    return squares


ROWS = 64
"""Rows in a block of a triangle: as few as a product still runs at full speed with."""


def _half_of_products(fixed: Tensor, cotangents: Tensor) -> tuple[Tensor, Tensor]:
    r"""The inner products through the lower triangle of :math:`X X^\top`; add its transpose.

    The matrix is symmetric, so :math:`\langle C_k, X X^\top C_l \rangle` is the sum of the two
    products with its lower triangle (half of the diagonal blocks): little more than half the work.

    Returns:
        The products, K x K, and for each term the squared norms of what its rows add to the
        gradient, summed: they are read while the rows are in the processor's cache.
    """
    count, rows, columns = cotangents.shape
    total = fixed.new_zeros((count, count), dtype=solving_dtype(fixed.device))
    addends = total.new_zeros(count)
    buffer = fixed.new_empty((count, min(rows, ROWS), columns))
    for start in range(0, rows, ROWS):
        end = min(start + ROWS, rows)
        block = cotangents[:, start:end]
        triangle = fixed[start:end] @ fixed[:end].T
        triangle[:, start:] *= 0.5
        through = buffer[:, : end - start]
        torch.bmm(triangle.expand(count, -1, -1), cotangents[:, :end], out=through)
        of_rows = torch.bmm(through.transpose(0, 1), block.permute(1, 2, 0))
        total += of_rows.sum(0, dtype=total.dtype)
        addends += _squares(block) @ (2 * triangle[:, start:].diagonal().to(addends.dtype))
    return total, addends
