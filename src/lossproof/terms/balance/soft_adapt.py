"""SoftAdapt: weights from the slopes of the values."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import choice, integer, number

Tensor = torch.Tensor

VARIANTS = ("original", "normalized", "loss_weighted", "normalized_loss_weighted")


class SoftAdapt(Balancer):
    r"""Weights by the slope of each term over the last steps: the worst performer gets the most.

    .. math::
        w_k = \frac{f_k\, e^{\beta s_k}}{\sum_i f_i\, e^{\beta s_i}}

    where :math:`s_k` is the slope of the term at the present step, a backward finite difference.
    In the variant ``"original"`` :math:`f_k = 1`; ``"loss_weighted"`` has for :math:`f_k` the mean
    of the term over the points of the difference; ``"normalized"`` divides the slopes by
    :math:`\sum_i |s_i|` first; ``"normalized_loss_weighted"`` does both. The weights sum to 1;
    before there are enough points they are equal. Without ``normalized`` the slopes are in the
    units of the values, so that a term of large values rules the weights.

    Args:
        names: the names of the terms, in their order.
        variant: which of the paper's weights.
        beta: :math:`\beta`; negative favours the best performer instead, 0 gives equal weights
            (or weights by value).
        order: the order of accuracy of the slope, which looks at ``order + 1`` points.
        every: a point is taken, and the weights are computed anew, in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a term has a negative value in a variant that
            weights by values.

    Example:
        >>> import torch
        >>> from lossproof.terms import SoftAdapt
        >>> balancer = SoftAdapt(beta=1.0)
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> for a, b in ((4.0, 4.0), (4.0, 3.0)):
        ...     step = balancer.backward({"a": a * x, "b": b * x}, [x])
        >>> step.weights
        tensor([0.7311, 0.2689], dtype=torch.float64)

    Source:
        Heydari, Thompson and Mehmood (2019), SoftAdapt: techniques for adaptive loss weighting of
        neural networks with multi-part loss functions, arXiv:1912.12355, section 3.1. The authors'
        package takes the slope at the *oldest* of the points, and divides by the signed sum of
        the slopes, which turns the order of the weights round when all terms fall; here the slope
        is that of the newest point, and the sum that of magnitudes. PhysicsNeMo's
        SoftAdapt takes the ratio to the value before in place of a slope, and its weights sum to
        K.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    history: Tensor
    points: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        variant: str = "original",
        beta: float = 0.1,
        order: int = 1,
        every: int = 1,
    ) -> None:
        self.variant = choice("variant", variant, VARIANTS)
        self.beta = number("beta", beta)
        self.order = integer("order", order, minimum=1)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        return {
            "history": torch.zeros(self.order + 1, count, dtype=torch.float64),
            "points": torch.zeros((), dtype=torch.int64),
        }

    def weights_of(self, figures: TermGradients) -> Tensor:
        weighted = self.variant.endswith("loss_weighted")
        if weighted:
            nonnegative(f"SoftAdapt, {self.variant}", figures.names, figures.values)
        self.history = torch.cat([self.history[1:], figures.values[None]])
        self.points = (self.points + 1).clamp(max=self.order + 1)
        slopes = self.history.new_tensor(backward_difference(self.order)) @ self.history
        if self.variant.startswith("normalized"):
            total = slopes.abs().sum()
            slopes = slopes / torch.where(total > 0, total, 1.0)
        weights = torch.softmax(self.beta * slopes, 0)
        if weighted:
            weights = _weighted(weights, self.history.mean(0))
        return torch.where(self.points > self.order, weights, 1.0 / len(figures.names))


def _weighted(weights: Tensor, means: Tensor) -> Tensor:
    """The weights times the means of the values, summing to 1; as they are where all are 0."""
    largest = means.amax()
    products = weights * means / torch.where(largest > 0, largest, 1.0)
    total = products.sum()
    return torch.where(total > 0, products / torch.where(total > 0, total, 1.0), weights)


def backward_difference(order: int) -> list[float]:
    """The coefficients of the slope at the newest of ``order + 1`` points, the oldest first.

    Example:
        >>> from lossproof.terms.balance.soft_adapt import backward_difference
        >>> backward_difference(2)
        [0.5, -2.0, 1.5]
    """
    return [
        sum((-1) ** back * comb(j, back) / j for j in range(max(back, 1), order + 1))
        for back in range(order, -1, -1)
    ]
