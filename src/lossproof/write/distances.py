"""Distances between vectors, with derivatives that are finite and right where vectors meet.

Two things go wrong with distances. The square root has no derivative at 0: here it is 0, which is a
subgradient. And :math:`|a|^2 + |b|^2 - 2 a \\cdot b`, which is how all distances of a batch come out
of one product of matrices, leaves only rounding errors where two vectors are near and both far
from the origin: here the batch is moved to its centre, which changes no distance, and the product
is taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Tensor = torch.Tensor

BLOCK = 1 << 17
"""Pairs in a block, for each thread: the temporaries fit into a second-level cache."""


def root(square: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0."""
    positive = square > 0
    # A second `where` inside: the infinite slope at 0 would turn the 0 outside into NaN.
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0 * square)


def norm(vectors: Tensor, p: float = 2.0, dim: int = -1) -> Tensor:
    """The p-norm along an axis, with derivative 0 at 0.

    Args:
        vectors: the vectors.
        p: the degree, at least 1.
        dim: the axis.
    """
    if p == 2:
        return root(vectors.square().sum(dim))
    if p == 1:
        return vectors.abs().sum(dim)
    size = vectors.abs()
    # Powers of numbers of at most 1 cannot overflow; a constant factor leaves the gradient right.
    scale = size.detach().amax(dim, keepdim=True)
    scale = torch.where(scale == 0, 1.0, scale)
    positive = size > 0
    powers = torch.where(positive, torch.where(positive, size / scale, 1.0) ** p, 0.0 * size)
    total = powers.sum(dim)
    nonzero = total > 0
    rooted = torch.where(nonzero, total, 1.0) ** (1 / p)
    return scale.squeeze(dim) * torch.where(nonzero, rooted, total)


def normalized(vectors: Tensor, dim: int = -1) -> Tensor:
    """The vectors at length 1; a vector of length 0 stays 0 and has no gradient."""
    # The largest component first, so that squares neither overflow nor vanish.
    scale = vectors.detach().abs().amax(dim, keepdim=True)
    vectors = vectors / torch.where(scale == 0, 1.0, scale)
    length = norm(vectors, dim=dim).unsqueeze(dim)
    return vectors / torch.where(length == 0, 1.0, length)


def squared_distances(vectors: Tensor) -> Tensor:
    """The squared Euclidean distances between all rows of a matrix, of shape (N, N).

    Their relative error is that of float32, as long as two rows differ by more than the rounding
    of one number; rows that do not are at distance 0.
    """
    centred, size = _centred(vectors)
    square = torch.addmm(size.mT, centred, centred.mT, alpha=-2) + size
    return square.clamp(min=0).to(vectors.dtype)


def _centred(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The rows around their mean in the widest precision, and their squared lengths, (N, 1)."""
    wide = vectors if vectors.device.type == "mps" else vectors.double()
    centred = wide - wide.mean(0).detach()
    # Shortened by more than the rounding of the product: what meets is at 0, or below.
    shortened = 1 - 4 * torch.finfo(centred.dtype).eps
    return centred, shortened * centred.square().sum(1, keepdim=True)


PairValue = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From squared distances, and whether the two belong together, to the value of each pair and its
derivative in the squared distance."""


class SweptPairs(torch.autograd.Function):
    """A weighted sum over all ordered pairs of rows; its gradient is computed with it, in blocks.

    ``apply(value, formula, vectors, labels, weight, counts)`` is the sum over i and j of
    ``weight[i] * counts[j] * value(|vectors[i] - vectors[j]|^2, labels[i] == labels[j])``, where
    ``formula`` computes the same by operations that can be differentiated twice.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx,
        value: PairValue,
        formula: Callable[[Tensor], Tensor],
        vectors: Tensor,
        labels: Tensor,
        weight: Tensor,
        counts: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(vectors)
        ctx.formula = formula  # type: ignore[attr-defined]
        total, ctx.gradient = _sweep(value, vectors, labels, weight, counts)  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradient = grad * ctx.gradient  # type: ignore[attr-defined]
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            (vectors,) = ctx.saved_tensors  # type: ignore[attr-defined]
            total = ctx.formula(vectors)  # type: ignore[attr-defined]
            (gradient,) = torch.autograd.grad(total, vectors, grad, create_graph=True)
        return None, None, gradient, None, None, None


def _sweep(
    value: PairValue, vectors: Tensor, labels: Tensor, weight: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum and its gradient."""
    centred, size = _centred(vectors)
    count, width = centred.shape
    weight, counts = weight.to(centred.dtype), counts.to(centred.dtype)
    # A pair pulls at both of its ends: weight[i] counts[j] + counts[i] weight[j].
    ends = ((weight, counts), (counts, weight))
    pulls = [torch.cat((centred, torch.ones_like(size)), 1) * b.unsqueeze(1) for _, b in ends]
    gradient = torch.empty_like(centred)
    total = centred.new_zeros(())
    rows = max(1, BLOCK * torch.get_num_threads() // count)
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        square = torch.addmm(size.mT, centred[block], centred.mT, alpha=-2).add_(size[block])
        square.diagonal(start).zero_()
        same = labels[block].unsqueeze(1) == labels
        found, slope = value(square.clamp_(min=0).to(vectors.dtype), same)
        total += weight[block] @ (found.to(total.dtype) @ counts)
        slope = slope.to(total.dtype)
        pull = sum((slope @ p) * a[block].unsqueeze(1) for (a, _), p in zip(ends, pulls))
        gradient[block] = 2 * (pull[:, width:] * centred[block] - pull[:, :width])
    return total.to(vectors.dtype), gradient.to(vectors.dtype)
