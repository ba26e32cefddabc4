"""Gradients that lie side by side in one tensor, as a compiled step returns them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossproof.terms.products import LARGEST, SMALLEST, at_least_single
from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor

_BLOCK = 1 << 12
"""Columns in a block: in the sum of so many products float32 is right to about 1e-7."""


class SideBySide:
    """The gradients of several parameters in one tensor.

    Args:
        positions: where the parameters stand among the chosen ones.
        parameters: these parameters.
        count: how many terms there are.
    """

    _held: Tensor

    def __init__(self, positions: Sequence[int], parameters: Sequence[Tensor], count: int) -> None:
        self.positions = positions
        self._like = list(parameters)
        self._shapes = [one.shape for one in parameters]
        self._sizes = [one.numel() for one in parameters]
        self._count = count

    def holding(self, gradients: Tensor) -> SideBySide:
        """The same with these gradients in it, laid out by ``laid_out``."""
        other = object.__new__(type(self))  # copy.copy takes ten times as long
        vars(other).update(vars(self), _held=gradients)
        return other

    def laid_out(self, gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """Lay the gradients of this group side by side: of each term a list over all parameters."""
        raise NotImplementedError

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        """K x K inner products, computed in a dtype or in a precision that fits."""
        raise NotImplementedError

    def combined(self, weights: Tensor) -> list[Tensor]:
        """The gradient of the weighted sum of the terms, for each parameter of the group."""
        raise NotImplementedError

    def rows(self) -> list[Tensor]:
        """For each parameter of the group its gradients: K stacked tensors of its shape."""
        raise NotImplementedError

    def vanishes(self, term: int) -> bool:
        """Whether the gradient of a term is exactly zero."""
        return not any(bool(row[term].any()) for row in self.rows())

    def gradient(self, term: int) -> list[Tensor | None]:
        """The gradient of one term, for each parameter of the group."""
        return [row[term] for row in self.rows()]

    def _split(self, flat: Tensor) -> list[Tensor]:
        """The parts of a vector over the parameters of the group, in their shapes."""
        parts: list[Tensor] = torch._C._nn.unflatten_dense_tensors(flat, self._like)
        return parts

    def _parts(self, flat: Tensor) -> list[Tensor]:
        return [
            part.view(flat.shape[:-1] + shape)
            for part, shape in zip(torch.split(flat, self._sizes, -1), self._shapes, strict=True)
        ]


class Together(SideBySide):
    """Parameters on which the same two or more terms depend: a matrix with a row for each."""

    def __init__(
        self,
        positions: Sequence[int],
        parameters: Sequence[Tensor],
        terms: Sequence[int],
        count: int,
    ) -> None:
        super().__init__(positions, parameters, count)
        self._terms = list(terms)
        self._all = len(terms) == count

    def laid_out(self, gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
        return torch.stack([_flat(gradients[term], self.positions) for term in self._terms])

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        rows = at_least_single(self._held, dtype)
        products = _in_blocks(rows, solving_dtype(rows.device))
        if self._all:
            return products
        at = torch.tensor(self._terms, device=rows.device)
        return products.new_zeros(self._count, self._count).index_put((at[:, None], at), products)

    def range_left(self) -> Tensor:
        """Whether a product has left the range in which the rows' own precision holds it."""
        rows = at_least_single(self._held)
        if rows.dtype == torch.float64:
            return torch.zeros((), dtype=torch.bool, device=rows.device)
        squares = rows.square().sum(1)
        lost: Tensor = (squares < SMALLEST) & (rows.abs().sum(1) > 0) | ~(squares < LARGEST)
        return lost.any()

    def combined(self, weights: Tensor) -> list[Tensor]:
        own = weights if self._all else weights[self._terms]
        return self._split(own.to(self._held.dtype) @ self._held)

    def rows(self) -> list[Tensor]:
        if self._all:
            return self._parts(self._held)
        full = self._held.new_zeros(self._count, self._held.shape[1])
        full[self._terms] = self._held
        return self._parts(full)


class Alone(SideBySide):
    """Parameters on which one term alone depends (heads): a vector, term after term."""

    def __init__(
        self,
        positions: Sequence[int],
        parameters: Sequence[Tensor],
        owners: Sequence[int],
        count: int,
    ) -> None:
        super().__init__(positions, parameters, count)
        self._owners = list(owners)
        self._own = sorted(set(owners))
        self._by_owner = [
            sum(size for size, one in zip(self._sizes, owners, strict=True) if one == owner)
            for owner in self._own
        ]
        sizes = torch.tensor(self._sizes)
        self._owner = torch.tensor(self._owners).repeat_interleave(sizes).to(parameters[0].device)

    def laid_out(self, gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
        return torch.cat(
            [
                _flat(gradients[owner], [position])
                for position, owner in zip(self.positions, self._owners, strict=True)
            ]
        )

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        squares = self._held.to(dtype or solving_dtype(self._held.device)).square()
        sums = [squares.new_zeros(()) for _ in range(self._count)]
        for part, owner in zip(torch.split(squares, self._by_owner), self._own, strict=True):
            sums[owner] = part.sum()
        return torch.diag_embed(torch.stack(sums))

    def combined(self, weights: Tensor) -> list[Tensor]:
        return self._split(weights.to(self._held.dtype).index_select(0, self._owner) * self._held)

    def rows(self) -> list[Tensor]:
        full = self._held.new_zeros(self._count, len(self._held))
        full[self._owner, torch.arange(len(self._held), device=full.device)] = self._held
        return self._parts(full)


def _in_blocks(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """``rows @ rows.T``, the products of the blocks added up in another dtype."""
    total = rows.new_zeros(len(rows), len(rows), dtype=dtype)
    for part in torch.split(rows, _BLOCK, 1):
        total = total + (part @ part.T).to(dtype)
    return total


def _flat(gradients: Sequence[Tensor | None], positions: Sequence[int]) -> Tensor:
    chosen = [gradients[position] for position in positions]
    return torch.cat([one.reshape(-1) for one in chosen if one is not None])
