"""Distances between vectors, with derivatives that are finite and right where vectors meet.

Two things go wrong with distances. The square root has no derivative at 0: here it is 0, which is a
subgradient. And ``|a|^2 + |b|^2 - 2 a b``, which is how all distances of a batch come out of one
product of matrices, leaves rounding errors alone where two vectors are near and both far from the
origin: here the batch is moved to its centre, which changes no distance, and the product is taken
in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

Tensor = torch.Tensor


def root(square: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0."""
    zero = square == 0
    # A second `where` inside: the infinite slope at 0 would turn the 0 outside into NaN.
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def norm(vectors: Tensor, p: float = 2.0, dim: int = -1) -> Tensor:
    """The p-norm along an axis, with derivative 0 at 0.

    Args:
        vectors: the vectors.
        p: the degree, at least 1.
        dim: the axis.
    """
    if p == 1:
        return vectors.abs().sum(dim)
    if p == 2:
        return root(vectors.square().sum(dim))
    size = vectors.abs()
    # Powers of numbers up to 1 do not overflow; to the gradient the factor is a constant.
    largest = size.detach().amax(dim, keepdim=True)
    scale = torch.where(largest == 0, 1.0, largest)
    total = _power(size / scale, p).sum(dim)
    return scale.squeeze(dim) * _power(total, 1 / p)


def _power(base: Tensor, exponent: float) -> Tensor:
    """A power of what is not negative, with derivatives 0 at 0."""
    zero = base == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, base) ** exponent)


def squared_distances(vectors: Tensor) -> Tensor:
    """The squared Euclidean distances between all rows of (N, D), of shape (N, N).

    They are right to the precision of the input, as long as two rows differ by more than its
    rounding; rows that do not are at distance 0.
    """
    batch = Centred.of(vectors)
    centred, size, ones = batch.vectors, batch.size, torch.ones_like(batch.size)
    # |a|^2 + |b|^2 - 2 a b as one product.
    square = torch.cat((-2 * centred, size, ones), 1) @ torch.cat((centred, ones, size), 1).T
    return square.to(vectors.dtype).clamp(min=0)


class Centred(NamedTuple):
    """Rows around their mean, in the widest precision there is."""

    vectors: Tensor
    """(N, D)."""
    size: Tensor
    """Their squares, (N, 1)."""
    dtype: torch.dtype
    """In which distances are returned."""

    @classmethod
    def of(cls, vectors: Tensor) -> Centred:
        """Rows (N, D) of any precision."""
        wide = vectors if vectors.device.type == "mps" else vectors.double()
        centred = wide - wide.detach().mean(0)
        # Smaller than the product can round, so that rows that meet are at 0 and not just above.
        smaller = 1 - 4 * torch.finfo(centred.dtype).eps
        return cls(centred, smaller * centred.square().sum(1, keepdim=True), vectors.dtype)

    def squared_distances(self, rows: slice, columns: slice) -> Tensor:
        """The squared distances between some rows and others, without a gradient."""
        vectors, size = self.vectors.detach(), self.size.detach()
        square = torch.addmm(size[columns].T, vectors[rows], vectors[columns].T, alpha=-2)
        return square.add_(size[rows]).clamp_(min=0).to(self.dtype)
