"""Gradients of terms that are multiplied by a number each, after they were computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossproof.terms.gradients import TermGradients
from lossproof.terms.held import Group

Tensor = torch.Tensor


class Scaled:
    """The K gradients of some parameters, each multiplied by its factor."""

    def __init__(self, group: Group, factors: Tensor) -> None:
        self._group = group
        self._factors = factors

    @property
    def positions(self) -> Sequence[int]:
        return self._group.positions

    def vanishes(self, term: int) -> bool:
        return self._group.vanishes(term)

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        products = self._group.products(dtype)
        factors = self._factors.to(products)
        return products * factors[:, None] * factors

    def combined(self, weights: Tensor) -> list[Tensor]:
        return self._group.combined(weights * self._factors.to(weights))

    def rows(self) -> list[Tensor]:
        rows = self._group.rows()
        return [row * self._factors.to(row).view(-1, *[1] * (row.dim() - 1)) for row in rows]

    def gradient(self, term: int) -> list[Tensor | None]:
        factor = self._factors[term]
        parts = self._group.gradient(term)
        return [None if part is None else part * factor.to(part) for part in parts]


def scale_terms(figures: TermGradients, factors: Tensor) -> None:
    """Multiply the gradient of each term by a number, in all that is known of it.

    Args:
        figures: what is changed.
        factors: K positive numbers.
    """
    figures._table.rescale(1 / factors)
    if figures._gramian is not None:
        figures._gramian = figures._gramian * factors[:, None] * factors
    figures._groups = tuple(Scaled(group, factors) for group in figures._groups)
