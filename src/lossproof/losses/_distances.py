"""Distances between vectors, with derivatives that are finite and right where vectors meet.

Two things go wrong with distances. The square root has no derivative at 0: here it is 0, which is a
subgradient. And ``|a|^2 + |b|^2 - 2 a b``, which is how all distances of a batch come out of one
product of matrices, leaves rounding errors alone where two vectors are near and both far from the
origin: here the batch is moved to its centre, which changes no distance, and the product is taken
in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lossproof.write import sweeping

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
    centred, size = _centred(vectors)
    ones = torch.ones_like(size)
    # |a|^2 + |b|^2 - 2 a b as one product.
    square = torch.cat((-2 * centred, size, ones), 1) @ torch.cat((centred, ones, size), 1).T
    return square.to(vectors.dtype).clamp(min=0)


def _centred(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The rows around their mean, in the widest precision there is, and their squares, (N, 1)."""
    wide = vectors if vectors.device.type == "mps" else vectors.double()
    centred = wide - wide.detach().mean(0)
    # Made smaller than the product can round, so that rows that meet are at 0 and not just above.
    smaller = 1 - 4 * torch.finfo(centred.dtype).eps
    return centred, smaller * centred.square().sum(1, keepdim=True)


OfPairs = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From squared distances, and whether the two belong together, to the value of each pair and its
derivative in the squared distance."""


def sum_over_pairs(
    of_pairs: OfPairs,
    formula: Callable[[Tensor], Tensor],
    vectors: Tensor,
    labels: Tensor,
    counts: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """The sum of the values of all ordered pairs that count.

    Where the pairs are many, on a CPU, their matrix is never held: value and gradient are computed
    together, in blocks.

    Args:
        of_pairs: the value of pairs, which is 0 for a row with itself.
        formula: the whole sum as a function of the vectors, by operations that can be
            differentiated twice.
        vectors: the rows, (N, D).
        labels: (N,); rows of one label belong together.
        counts: which rows count, (N,).
        weight: a factor for the pairs of which a row is the first, (N,); 0 where it does not count.
    """
    count = labels.shape[0]
    pairs = labels.unsqueeze(1).expand(count, count)
    learned = weight is not None and weight.requires_grad
    if learned or not sweeping.worth_a_sweep((pairs, vectors, counts)):
        return formula(vectors)
    total: Tensor = _SweptPairs.apply(  # type: ignore[no-untyped-call]
        of_pairs, formula, torch.is_grad_enabled(), vectors, labels, counts, weight
    )
    return total


class _SweptPairs(torch.autograd.Function):
    """A sum over pairs; its gradient is computed with it."""

    @staticmethod
    def forward(
        ctx: Any,
        of_pairs: OfPairs,
        formula: Callable[[Tensor], Tensor],
        with_gradient: bool,
        vectors: Tensor,
        labels: Tensor,
        counts: Tensor,
        weight: Tensor | None,
    ) -> Tensor:
        ctx.formula = formula
        ctx.save_for_backward(vectors)
        with_gradient = with_gradient and ctx.needs_input_grad[3]
        total, ctx.gradient = _sweep(of_pairs, with_gradient, vectors, labels, counts, weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            (vectors,) = ctx.saved_tensors
            total = ctx.formula(vectors)
            (gradient,) = torch.autograd.grad(total, vectors, grad, create_graph=True)
        else:
            gradient = grad * ctx.gradient
        return None, None, None, gradient, None, None, None


def _sweep(
    of_pairs: OfPairs,
    with_gradient: bool,
    vectors: Tensor,
    labels: Tensor,
    counts: Tensor,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The sum and its gradient."""
    centred, size = _centred(vectors)
    counts = counts.to(vectors.dtype)
    weight = counts if weight is None else weight
    gradient, pull = torch.zeros_like(centred), torch.zeros_like(centred[:, 0])
    total = centred.new_zeros(())
    together = max(1, 2 * sweeping.BLOCK * torch.get_num_threads() // len(labels))
    for start in range(0, len(labels), together):
        rows, rest = slice(start, start + together), slice(start, None)
        square = torch.addmm(size[rest].T, centred[rows], centred[rest].T, alpha=-2)
        square = square.add_(size[rows]).clamp_(min=0).to(vectors.dtype)
        square.diagonal().zero_()
        value, slope = of_pairs(square, labels[rows].unsqueeze(1) == labels[rest])
        # Pairs with a later row are met once and stand for both orders.
        factor = weight[rows].outer(counts[rest])
        factor.addr_(counts[rows], weight[rest])
        factor[:, : square.shape[0]] /= 2
        total += value.mul_(factor).sum()
        if with_gradient:  # each pair pulls at both of its ends
            slope = slope.mul_(factor).to(centred.dtype)
            pull[rows] += slope.sum(1)
            pull[rest] += slope.sum(0)
            gradient[rows].addmm_(slope, centred[rest], alpha=-1)
            gradient[rest].addmm_(slope.T, centred[rows], alpha=-1)
    gradient.addcmul_(pull.unsqueeze(1), centred).mul_(2)
    return total.to(vectors.dtype), gradient.to(vectors.dtype)
