"""The gradients of K terms, held in whatever form was the cheapest to compute.

Every form answers the same questions: the inner products of the gradients, the gradient of one
term, and the gradient of a weighted sum of the terms, which needs no further backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from lossproof.terms.products import inner_products

Tensor = torch.Tensor


class Group(Protocol):
    """The K gradients of some of the parameters."""

    positions: Sequence[int]
    """Where these parameters stand among the chosen ones."""

    def products(self) -> Tensor:
        """K x K inner products, summed over the parameters of the group."""
        ...

    def combined(self, weights: Tensor) -> list[Tensor]:
        """The gradient of the weighted sum of the terms, for each parameter of the group."""
        ...

    def rows(self) -> list[Tensor]:
        """For each parameter of the group its gradients: K stacked tensors of its shape."""
        ...


class Rows:
    """A matrix with a row for each term, in which the gradients lie side by side."""

    def __init__(self, positions: Sequence[int], parameters: Sequence[Tensor], matrix: Tensor):
        self.positions = positions
        self._parameters = parameters
        self._matrix = matrix

    def products(self) -> Tensor:
        return inner_products(self._matrix)

    def combined(self, weights: Tensor) -> list[Tensor]:
        flat = weights.to(self._matrix.dtype) @ self._matrix
        return [
            part.view(parameter.shape)
            for part, parameter in zip(self._split(flat), self._parameters, strict=True)
        ]

    def rows(self) -> list[Tensor]:
        return [
            part.view(-1, *parameter.shape)
            for part, parameter in zip(self._split(self._matrix), self._parameters, strict=True)
        ]

    def _split(self, flat: Tensor) -> tuple[Tensor, ...]:
        sizes = [parameter.numel() for parameter in self._parameters]
        return torch.split(flat, sizes, dim=-1)
