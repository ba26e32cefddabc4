"""The gradients of K terms, held in whatever form was the cheapest to compute.

Every form answers the same questions: the inner products of the gradients, the gradient of each
term, and the gradient of a weighted sum of the terms, which needs no further backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from lossproof.terms.products import at_least_single, out_of_range, products_of_rows
from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor


class Group(Protocol):
    """The K gradients of some of the parameters."""

    @property
    def positions(self) -> Sequence[int]:
        """Where these parameters stand among the chosen ones."""
        ...

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        """K x K inner products, summed over the parameters of the group."""
        ...

    def vanishes(self, term: int) -> bool:
        """Whether the gradient of a term is exactly zero."""
        ...

    def combined(self, weights: Tensor) -> list[Tensor]:
        """The gradient of the weighted sum of the terms, for each parameter of the group."""
        ...

    def rows(self) -> list[Tensor]:
        """For each parameter of the group its gradients: K stacked tensors of its shape."""
        ...

    def gradient(self, term: int) -> list[Tensor | None]:
        """The gradient of one term for each parameter, ``None`` for a zero that was not stored."""
        ...


def total_products(groups: Sequence[Group], count: int, device: torch.device) -> Tensor:
    """The inner products of the gradients over all groups, K x K.

    They are computed in the gradients' own precision, and again in float64 where a squared norm
    leaves the range of float32 (a gradient of 1e-25 has a square of 1e-50), or where it is a small
    difference of large numbers.
    """
    total = torch.zeros(count, count, dtype=solving_dtype(device), device=device)
    for group in groups:
        total += group.products().to(device)
    if device.type == "mps":
        return total
    factored = [group for group in groups if isinstance(group, Factored)]
    addends = [group.addends().to(total) for group in factored]
    beyond, lost = _doubts(total.diagonal(), sum(addends, torch.zeros_like(total[0])))
    if _worth_repeating(groups, beyond):
        total.zero_()
        for group in groups:
            total += group.products(torch.float64).to(device)
    elif any(lost):
        for group in factored:
            total += (group.products(torch.float64) - group.products()).to(device)
    return total


@runtime_checkable
class Factored(Protocol):
    """Gradients whose inner products are computed without them, as sums over rows."""

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        """K x K inner products."""
        ...

    def vanishes(self, term: int) -> bool:
        """Whether the gradient of a term is exactly zero."""
        ...

    def addends(self) -> Tensor:
        """For each term the size of what its squared norm is added up from."""
        ...


def squared_norms(groups: Sequence[Factored]) -> list[Tensor]:
    """The squared norms of the gradients of each group, right as `total_products` has them."""
    if not groups:
        return []
    squares = torch.stack([group.products().diagonal() for group in groups])
    if squares.device.type == "mps":
        return list(squares)
    addends = torch.stack([group.addends() for group in groups]).to(squares)
    doubts = zip(groups, *_doubts(squares, addends), strict=True)
    return [
        group.products(torch.float64).diagonal()
        if any(lost) or _worth_repeating([group], beyond)
        else found
        for found, (group, beyond, lost) in zip(squares, doubts, strict=True)
    ]


CANCELLED = 1e-2
"""Below this share of its addends a squared norm is added up anew: float32 has six digits left."""


def _doubts(squares: Tensor, addends: Tensor) -> list[list[Any]]:
    """Which squared norms float32 cannot hold, and which have lost digits; waits once for both."""
    doubts = torch.stack([out_of_range(squares), squares < CANCELLED * addends])
    found: list[list[Any]] = doubts.tolist()
    return found


def _worth_repeating(groups: Sequence[Group | Factored], beyond: Sequence[bool]) -> bool:
    for term, suspicious in enumerate(beyond):
        if suspicious and not all(group.vanishes(term) for group in groups):
            return True
    return False


def real_count(tensor: Tensor) -> int:
    """How many real numbers a tensor has: a complex one counts as two."""
    return 2 * tensor.numel() if tensor.is_complex() else tensor.numel()


def as_real(tensor: Tensor) -> Tensor:
    """The real numbers of a tensor: those of a complex one along a last axis of two."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


class Rows:
    """The gradients of several parameters side by side, a row for each term.

    Args:
        positions: where the parameters stand among the chosen ones.
        parameters: the parameters, of one dtype and device.
        matrix: K rows of as many real numbers as the parameters have together, to be filled.
    """

    def __init__(
        self, positions: Sequence[int], parameters: Sequence[Tensor], matrix: Tensor
    ) -> None:
        self.positions = positions
        self.matrix = matrix
        self._parameters = parameters
        self._sizes = [real_count(parameter) for parameter in parameters]
        self._turned: list[bool] = [False] * len(parameters)
        self._untouched = True

    def fill(self, term: int, gradients: Sequence[Tensor | None]) -> None:
        """Write the gradients of a term, ``None`` where it does not depend on a parameter."""
        if all(gradient is None for gradient in gradients):
            self.matrix[term].zero_()
            return
        if self._untouched:  # turned matrices stay as they lie: turning all of them takes longer
            self._turned = [_lies_turned(gradient) for gradient in gradients]
            self._untouched = False
        parts = [
            self.matrix.new_zeros(size)
            if gradient is None
            else as_real(gradient.mT if turned else gradient).reshape(-1)
            for gradient, size, turned in zip(gradients, self._sizes, self._turned, strict=True)
        ]
        torch.cat(parts, out=self.matrix[term])

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        return products_of_rows(self.matrix, dtype)

    def vanishes(self, term: int) -> bool:
        return not bool(self.matrix[term].any())

    def combined(self, weights: Tensor) -> list[Tensor]:
        return self._shaped(weighted_sum(weights, self.matrix))

    def rows(self) -> list[Tensor]:
        return self._shaped(self.matrix)

    def gradient(self, term: int) -> list[Tensor | None]:
        return [*self._shaped(self.matrix[term])]

    def _shaped(self, flat: Tensor) -> list[Tensor]:
        lead = flat.shape[:-1]
        shaped = []
        for piece, parameter, turned in zip(
            torch.split(flat, self._sizes, dim=-1), self._parameters, self._turned, strict=True
        ):
            if turned:
                shaped.append(piece.view((*lead, *parameter.shape[::-1])).mT)
            elif parameter.is_complex():
                shaped.append(torch.view_as_complex(piece.view((*lead, *parameter.shape, 2))))
            else:
                shaped.append(piece.view((*lead, *parameter.shape)))
        return shaped


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """The weighted sum over the first axis; half precision is added up in float32."""
    wide = at_least_single(rows)
    total: Tensor = torch.tensordot(weights.to(wide.dtype), wide, 1)
    return total.to(rows.dtype)


def _times(gradient: Tensor, weight: Tensor) -> Tensor:
    """A gradient times a number, which half precision might not hold."""
    wide = at_least_single(gradient)
    return (wide * weight.to(wide.device, wide.dtype)).to(gradient.dtype)


def _lies_turned(gradient: Tensor | None) -> bool:
    """Whether a matrix lies in memory column by column, as autograd leaves it behind a ``.T``."""
    return (
        gradient is not None
        and gradient.dim() == 2
        and not gradient.is_complex()
        and not gradient.is_contiguous()
        and gradient.mT.is_contiguous()
    )


class OfSingleTerms:
    """The gradients of parameters that one term alone depends on, such as those of its head.

    Args:
        positions: where the parameters stand among the chosen ones.
        gradients: the gradient of each.
        terms: the term of each.
        count: how many terms there are.
    """

    def __init__(
        self,
        positions: Sequence[int],
        gradients: Sequence[Tensor],
        terms: Sequence[int],
        count: int,
    ) -> None:
        self.positions = positions
        self._gradients = gradients
        self._terms = terms
        self._count = count

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        device = self._gradients[0].device
        solving = solving_dtype(device)
        parts = [at_least_single(as_real(gradient), dtype) for gradient in self._gradients]
        norms = torch.stack([norm.to(device) for norm in torch._foreach_norm(parts)])
        squares = torch.zeros(self._count, dtype=solving, device=device)
        terms = torch.tensor(self._terms, device=device)
        squares.index_add_(0, terms, norms.to(solving).square())
        return torch.diag(squares)

    def vanishes(self, term: int) -> bool:
        return not any(part is not None and bool(part.any()) for part in self.gradient(term))

    def combined(self, weights: Tensor) -> list[Tensor]:
        return [
            _times(part, weight)
            for part, weight in zip(self._gradients, weights[list(self._terms)], strict=True)
        ]

    def rows(self) -> list[Tensor]:
        rows = []
        for gradient, term in zip(self._gradients, self._terms, strict=True):
            alone = gradient.new_zeros((self._count, *gradient.shape))
            alone[term] = gradient
            rows.append(alone)
        return rows

    def gradient(self, term: int) -> list[Tensor | None]:
        return [
            part if mine == term else None
            for part, mine in zip(self._gradients, self._terms, strict=True)
        ]


class SparseRows:
    """The K gradients of an embedding, which stay sparse where they are."""

    def __init__(self, position: int, gradients: Sequence[Tensor | None], parameter: Tensor):
        self.positions = (position,)
        self._parameter = parameter
        self._gradients = [
            gradient.coalesce() if gradient is not None and gradient.is_sparse else gradient
            for gradient in gradients
        ]

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        count, device = len(self._gradients), self._parameter.device
        total = torch.zeros(count, count, dtype=solving_dtype(device), device=device)
        for k, left in enumerate(self._gradients):
            for j, right in enumerate(self._gradients[: k + 1]):
                if left is not None and right is not None:
                    product = _product(left.to(total.dtype), right.to(total.dtype))
                    total[k, j] = total[j, k] = product
        return total

    def vanishes(self, term: int) -> bool:
        gradient = self._gradients[term]
        return gradient is None or not bool(_stored(gradient).any())

    def combined(self, weights: Tensor) -> list[Tensor]:
        total = None
        for weight, gradient in zip(weights, self._gradients, strict=True):
            if gradient is not None:
                part = gradient * weight.to(gradient.dtype)
                total = part if total is None else _sum(total, part)
        assert total is not None  # a parameter that no term reaches has no group
        return [total]

    def rows(self) -> list[Tensor]:
        zero = torch.zeros_like(self._parameter)
        return [
            torch.stack([zero if part is None else part.to_dense() for part in self._gradients])
        ]

    def gradient(self, term: int) -> list[Tensor | None]:
        return [self._gradients[term]]


def _stored(gradient: Tensor) -> Tensor:
    return gradient.values() if gradient.is_sparse else gradient


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The inner product of two gradients, each of them sparse or not."""
    if right.is_sparse and not left.is_sparse:
        left, right = right, left
    if left.is_sparse and not right.is_sparse:
        return (left.values() * right[tuple(left.indices())]).sum()
    return _stored((left * right).coalesce() if left.is_sparse else left * right).sum()


def _sum(left: Tensor, right: Tensor) -> Tensor:
    """The sum of two gradients; torch adds what is sparse only to the right of what is not."""
    return right + left if left.is_sparse and not right.is_sparse else left + right
