"""Ordinary values for the arguments of a loss, drawn with a seed, in float32 as users have them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class Draw:
    """A stream of random tensors that depends on the seed alone."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(1299709 * seed + 49979687)

    def normal(self, *shape: int) -> Tensor:
        """Logits, embeddings, signals."""
        return torch.randn(*shape, generator=self._generator)

    def uniform(self, *shape: int) -> Tensor:
        """Images, probabilities, variances: between 0.05 and 0.95."""
        return 0.05 + 0.9 * torch.rand(*shape, generator=self._generator)

    def counts(self, *shape: int) -> Tensor:
        """Whole numbers from 0 on, as floats."""
        return torch.poisson(4 * self.uniform(*shape), generator=self._generator)

    def labels(self, classes: int, *shape: int) -> Tensor:
        """Class indices."""
        return torch.randint(classes, shape, generator=self._generator)

    def bits(self, *shape: int, share: float = 0.5) -> Tensor:
        """Zeros and ones, as floats; ``share`` of them are ones."""
        return (torch.rand(*shape, generator=self._generator) < share).float()

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1, as floats."""
        return 2 * self.bits(*shape) - 1

    def distributions(self, *shape: int, dim: int = 1) -> Tensor:
        """Probabilities that sum to one along an axis."""
        return self.normal(*shape).softmax(dim)

    def log_distributions(self, *shape: int, dim: int = 1) -> Tensor:
        """Their logarithms."""
        return self.normal(*shape).log_softmax(dim)

    def one_hot(self, classes: int, samples: int, *space: int) -> Tensor:
        """Classes as zeros and ones along axis 1."""
        labels = self.labels(classes, samples, *space)
        return functional.one_hot(labels, classes).movedim(-1, 1).float()


def wanted(tensor: Tensor) -> Tensor:
    """The tensor as a prediction: a gradient is wanted for it."""
    return tensor.detach().requires_grad_()
