"""Seeded example inputs for the hand-written backwards."""

from __future__ import annotations

import torch
from torch import Tensor


class Draw:
    """Random tensors in float64, the same for the same seed.

    ``grad=True`` marks an input whose gradient the loss's backward claims to give; every other
    tensor is data.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(7919 * seed + 104729)

    def normal(self, *shape: int, grad: bool = False, scale: float = 1.0) -> Tensor:
        """Normal numbers with the standard deviation ``scale``."""
        values = scale * torch.randn(*shape, generator=self._generator, dtype=torch.float64)
        return values.requires_grad_(grad)

    def uniform(
        self, *shape: int, low: float = 0.0, high: float = 1.0, grad: bool = False
    ) -> Tensor:
        """Uniform numbers in [low, high)."""
        unit = torch.rand(*shape, generator=self._generator, dtype=torch.float64)
        return (low + (high - low) * unit).requires_grad_(grad)

    def simplex(self, *shape: int, grad: bool = False) -> Tensor:
        """Probability vectors along the last dimension, none of them near a corner."""
        return self.normal(*shape).softmax(-1).detach().requires_grad_(grad)

    def labels(self, *shape: int, classes: int) -> Tensor:
        """Class indices, int64."""
        return torch.randint(classes, shape, generator=self._generator)

    def signs(self, *shape: int) -> Tensor:
        """Numbers that are -1 or 1, both of which occur (from two elements on)."""
        return 2.0 * self.flags(*shape) - 1.0

    def flags(self, *shape: int) -> Tensor:
        """Numbers that are 0 or 1, both of which occur (from two elements on)."""
        values = (torch.rand(*shape, generator=self._generator) < 0.5).double()
        values.view(-1)[:2] = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return values
