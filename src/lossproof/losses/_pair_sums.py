"""Sums over all pairs of a batch of a function of their distance, without the matrix of all pairs.

Value and gradient are computed together, a block of pairs at a time, and a pair that stands for
both orders is met once. That takes less time than blocks under autograd, which does not know that
distances are symmetric and computes each block a second time for its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from lossproof.losses._blocks import tiles
from lossproof.losses._distances import Centred

Tensor = torch.Tensor

OfPairs = Callable[[Tensor, slice, slice, bool], tuple[Tensor, Tensor | None]]
"""From the squared distances of some rows and others to the value of each pair and, where that is
asked for, its derivative in the squared distance, both new."""


class Part(NamedTuple):
    """Some of the pairs. Where rows and columns are the same, each pair is met in both orders."""

    rows: range
    columns: range
    factor: float | tuple[Tensor, Tensor]
    """What the value of a pair is multiplied by, or a number of each first row and one of each
    second, whose product that is."""

    def factor_of(self, rows: slice, columns: slice) -> float | Tensor:
        """The factor of the pairs of a block, which beside the diagonal stand for both orders."""
        mirrored = self.rows == self.columns and rows != columns
        if isinstance(self.factor, float):
            return 2 * self.factor if mirrored else self.factor
        first, second = self.factor
        factor = first[rows].outer(second[columns])
        return factor.addr_(second[rows], first[columns]) if mirrored else factor


def sum_over_pairs(
    of_pairs: OfPairs,
    formula: Callable[[Tensor], Tensor],
    vectors: Tensor,
    parts: Sequence[Part],
) -> Tensor:
    """The sum of the values of pairs, in the widest precision there is.

    Args:
        of_pairs: the value of pairs.
        formula: the whole sum as a function of the vectors, by operations that can be
            differentiated twice.
        vectors: the rows, (N, D).
        parts: which pairs.
    """
    total: Tensor = _SweptPairs.apply(  # type: ignore[no-untyped-call]
        of_pairs, formula, torch.is_grad_enabled(), vectors, parts
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
        parts: Sequence[Part],
    ) -> Tensor:
        ctx.formula = formula
        ctx.save_for_backward(vectors)
        with_gradient = with_gradient and ctx.needs_input_grad[3]
        total, ctx.gradient = _sweep(of_pairs, with_gradient, vectors, parts)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (vectors,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            total = ctx.formula(vectors)
            (gradient,) = torch.autograd.grad(total, vectors, grad.to(total), create_graph=True)
        else:
            gradient = (grad * ctx.gradient).to(vectors.dtype)
        return None, None, None, gradient, None


def _sweep(
    of_pairs: OfPairs, with_gradient: bool, vectors: Tensor, parts: Sequence[Part]
) -> tuple[Tensor, Tensor | None]:
    """The sum and its gradient."""
    batch = Centred.of(vectors.detach())
    sweep = DistanceGradient(batch) if with_gradient else None
    total = batch.vectors.new_zeros(())
    for part in parts:
        once = part.rows == part.columns
        for rows, columns in tiles(part.rows, part.columns, vectors.device, once=once):
            square = batch.squared_distances(rows, columns)
            if once and rows == columns:
                square.diagonal().zero_()
            value, slope = of_pairs(square, rows, columns, with_gradient)
            factor = part.factor_of(rows, columns)
            if isinstance(factor, float):
                total += factor * value.sum(dtype=total.dtype)
            else:
                total += value.mul_(factor).sum(dtype=total.dtype)
            if sweep is not None and slope is not None:
                sweep.add(slope.mul_(factor), rows, columns)
    return total, None if sweep is None else sweep.finished().to(vectors.dtype)


class DistanceGradient:
    """The gradient in the rows, from derivatives in their squared distances."""

    def __init__(self, batch: Centred) -> None:
        self._vectors = batch.vectors
        self._pushed = torch.zeros_like(batch.vectors)
        self._pull = batch.vectors.new_zeros(len(batch.vectors))

    def add(self, slope: Tensor, rows: slice, columns: slice) -> None:
        """Each pair pulls at both of its ends."""
        slope = slope.to(self._vectors.dtype)
        self._pull[rows] += slope.sum(1)
        self._pull[columns] += slope.sum(0)
        self._pushed[rows].addmm_(slope, self._vectors[columns], alpha=-1)
        self._pushed[columns].addmm_(slope.T, self._vectors[rows], alpha=-1)

    def finished(self) -> Tensor:
        return self._pushed.addcmul_(self._pull.unsqueeze(1), self._vectors).mul_(2)
