"""CAGrad: near the mean gradient, the step that lowers the worst-off term the fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.cosines import norms_and_cosines
from lossproof.terms.balance.nonnegative import nonnegative_minimum
from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.balance.simplex import shortest_in_hull
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor

_CANCELLED = 1e-13
"""The square of a combination, over that of the sum of its parts, which is zero but for rounding"""
_STEPS = 50
_CLOSE = 1e-14


class CAGrad(Balancer):
    r"""Conflict-averse gradient: near the mean, the step that lowers the worst-off term fastest.

    .. math::
        \max_d \min_k \langle g_k, d \rangle \quad \text{subject to} \;
        \lVert d - g_0 \rVert \le c \, \lVert g_0 \rVert, \qquad g_0 = \frac1K \sum_k g_k

    It is :math:`d = g_0 + \theta \sum_k \lambda_k g_k` for a convex combination
    :math:`\lambda`, which is the solution of the dual problem. With c = 0 it is the mean, with a
    large c the direction of MGDA; in between a term may still be opposed, if the ball is too small
    to avoid it. The weights are :math:`1/K + \theta \lambda_k` and sum to :math:`1 + \theta`.

    Where the gradients have no common descent direction and the ball reaches their dual cone, many
    steps are best; this is then the nearest to the mean, as of :class:`DualProj`. A term without a
    gradient has the weight 1/K: it is not the worst off, as nothing can lower it.

    The authors' code, and LibMTL by default, also divides by :math:`1 + c^2`; TorchJD and the paper
    do not, and neither is it done here. TorchJD returns zero weights where the norm of the
    gradients is small.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        c: how far the step may be from the mean, relative to the length of the mean; the analysis
            of the paper is for less than 1.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: ``c`` is no number.
        ValueError: ``c`` is negative.

    Example:
        >>> import torch
        >>> from lossproof.terms import CAGrad
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> step = CAGrad(c=0.5).backward({"a": x[0], "b": 3 * x[1]}, [x])
        >>> step.weights, x.grad
        (tensor([1.2906, 0.5000], dtype=torch.float64), tensor([1.2906, 1.5000]))

    Source:
        Liu, Liu, Jin, Stone and Liu (2021), Conflict-averse gradient descent for multi-task
        learning, NeurIPS, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self, names: Sequence[str] | None = None, *, c: float = 0.5, every: int = 1
    ) -> None:
        self.c = float(number("c", c, minimum=0.0))
        super().__init__(names, every=every)

    def weights_of(self, figures: TermGradients) -> Tensor:
        return _cagrad_weights(figures.gramian, self.c)


@on_cpu
def _cagrad_weights(gramian: Array, c: float) -> Array:
    count = len(gramian)
    if not np.isfinite(gramian).all():
        return np.full(count, np.nan)
    norms, cosines = norms_and_cosines(gramian)
    weights = np.full(count, 1.0 / count)
    there = norms > 0.0
    if c == 0.0 or not there.any():
        return weights
    lengths, cosines = norms[there] / norms.max(), cosines[np.ix_(there, there)]
    mean = float(lengths @ cosines @ lengths)
    if mean > _CANCELLED * lengths.sum() ** 2:
        # In units of the mean gradient's length, the radius of the ball is c.
        lengths = lengths / np.sqrt(mean) * count
        weights[there] += _pushes(lengths, cosines, cosines @ lengths / count, c) / lengths
    return weights


def _pushes(lengths: Array, cosines: Array, along_mean: Array, radius: float) -> Array:
    r"""How far the mean is pushed along each gradient, in the units of the radius.

    For a rate :math:`\mu` the nearest step to the mean with :math:`\langle g_k, d \rangle \ge \mu`
    for all k is a quadratic program, and its distance from the mean a convex function of the rate.
    Newton's method finds the rate at which the distance is the radius, from above: its step is the
    bound that the dual problem gives.

    Args:
        lengths: the norms of the gradients.
        cosines: the cosines between them.
        along_mean: the component of the mean along each of them.
        radius: the distance from the mean that is allowed.
    """
    rate, pushes = 0.0, _nearest(cosines, along_mean)
    if _distance(cosines, pushes) <= radius:
        shortest = shortest_in_hull(lengths, cosines) * lengths
        length = _distance(cosines, shortest)
        if length**2 <= _CANCELLED * shortest.sum() ** 2:
            return pushes
        rate = float(shortest @ along_mean) + radius * length
        pushes = _nearest(cosines, along_mean - rate / lengths)
    for _ in range(_STEPS):
        distance = _distance(cosines, pushes)
        if distance <= radius * (1.0 + _CLOSE):
            break
        rate -= distance * (distance - radius) / float((pushes / lengths).sum())
        pushes = _nearest(cosines, along_mean - rate / lengths)
    return pushes


def _nearest(cosines: Array, slopes: Array) -> Array:
    nearest: Array = nonnegative_minimum(cosines, slopes[None])[0]
    return nearest


def _distance(cosines: Array, pushes: Array) -> float:
    square = float(pushes @ cosines @ pushes)
    return math.sqrt(max(0.0, square))
