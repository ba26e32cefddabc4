"""Gradient normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.named_numbers import NamedNumbers
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor

_BETAS = (0.9, 0.999)
"""The decay of Adam's moments, its own defaults."""
_EQUAL = 1e-12
"""Of the target. Norms nearer to it than rounding can tell have no side on which they lie."""


class GradNorm(Balancer):
    r"""Weights learned so that all terms train at similar rates, judged by their gradient norms.

    .. math::
        G_i = \lVert \nabla_W (w_i L_i) \rVert, \qquad
        r_i = \frac{L_i / L_i(0)}{\operatorname{mean}_j L_j / L_j(0)}, \qquad
        L_{grad} = \sum_i \big| G_i - \bar G\, r_i^\alpha \big|

    After each step the weights descend along :math:`\nabla_w L_{grad}`, in which
    :math:`\bar G r_i^\alpha` (:math:`\bar G` is the mean of the norms) is a constant, by Adam, and
    are scaled to sum to K; so the weights of a step are those that the step before has learned, and
    the first step has ones. The paper takes for :math:`W` the last layer that the terms share: give
    it as ``on=`` to ``backward``, which also makes it cheap. A weight that a step would make
    negative becomes 0, from where it can grow again. A term without a gradient counts in neither
    mean, and its weight moves only by the scaling.

    LibMTL learns the logits of a softmax instead, and PhysicsNeMo the logarithms of the weights
    by the optimiser of the network (and ``alpha=1``); here the weights themselves are learned, as
    in the paper. Adam has no eps here, so that the scale of the gradients does not matter.

    Args:
        names: the names of the terms, in their order.
        alpha: how strongly slow terms are favoured, at least 0; 0 for equal gradient norms. The
            more the terms differ in nature, the larger.
        lr: the learning rate of the weights, above 0.
        initial_losses: :math:`L_i(0)` by the names of the terms, above 0, such as ``log(classes)``
            for a cross entropy. Without it the values of the first step.
        every: the weights are learned in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a term has a negative value. A term that was 0 in
            the first step counts as untrained, :math:`L_i / L_i(0) = 1`.

    Example:
        >>> import torch
        >>> from lossproof.terms import GradNorm
        >>> weight = torch.ones(2, requires_grad=True)
        >>> balancer = GradNorm()
        >>> for _ in range(3):
        ...     step = balancer.backward({"a": 9 * weight.sum(), "b": weight.sum()}, [weight])
        >>> step.weights
        tensor([0.9500, 1.0500], dtype=torch.float64)

    Source:
        Chen, Badrinarayanan, Lee and Rabinovich (2018), GradNorm: gradient normalization for
        adaptive loss balancing in deep multitask networks, ICML, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("norm",)
    learned: Tensor
    moment: Tensor
    second_moment: Tensor
    updates: Tensor
    first_values: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        alpha: float = 1.5,
        lr: float = 0.025,
        initial_losses: Mapping[str, float] | None = None,
        every: int = 1,
    ) -> None:
        self.alpha = number("alpha", alpha, minimum=0)
        self.lr = number("lr", lr, above=0)
        self.initial_losses = NamedNumbers("initial_losses", initial_losses, default=1.0, above=0)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self.initial_losses.fits(self.names or ())
        zeros = torch.zeros(count, dtype=torch.float64)
        return {
            "learned": torch.ones(count, dtype=torch.float64),
            "moment": zeros,
            "second_moment": zeros.clone(),
            "updates": torch.zeros((), dtype=torch.int64),
            "first_values": zeros.clone(),
        }

    def weights_of(self, figures: TermGradients) -> Tensor:
        nonnegative("GradNorm", figures.names, figures.values)
        norms = figures.vector("norm")
        weights = self.learned.to(norms)
        gradient = self._gradient(weights, norms, self._training_rates(figures, norms > 0))
        self.learned = _scaled(weights - self.lr * self._adam(gradient))
        return weights.clone()

    def _training_rates(self, figures: TermGradients, counted: Tensor) -> Tensor:
        """How far each term has come, relative to the mean: the larger, the slower it trains."""
        values = figures.values
        if self.initial_losses.given is not None:
            first = self.initial_losses.of(figures.names, values)
        else:
            first = torch.where(self.updates == 0, values, self.first_values.to(values))
            self.first_values = first
        left = torch.where(first > 0, values / first, 1.0)
        mean = _mean(left, counted)
        return torch.where(mean > 0, left / mean, 1.0)

    def _gradient(self, weights: Tensor, norms: Tensor, rates: Tensor) -> Tensor:
        """The gradient of the sum of distances, by the weights."""
        sizes = weights * norms
        target = _mean(sizes, norms > 0) * rates.pow(self.alpha)
        difference = sizes - target
        apart = difference.abs() > _EQUAL * target
        return torch.where(apart, difference.sign() * norms, 0.0)

    def _adam(self, gradient: Tensor) -> Tensor:
        """Adam's direction, from its moments. Where all gradients were zero it is zero."""
        self.updates = self.updates + 1
        self.moment = torch.lerp(gradient, self.moment.to(gradient), _BETAS[0])
        self.second_moment = torch.lerp(
            gradient.square(), self.second_moment.to(gradient), _BETAS[1]
        )
        updates = self.updates.to(gradient)  # a power with an integer would be float32
        first = self.moment / (1.0 - _BETAS[0] ** updates)
        second = self.second_moment / (1.0 - _BETAS[1] ** updates)
        return torch.where(second > 0, first / second.sqrt(), 0.0)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the values that count; 0 if none does."""
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp_min(1)


def _scaled(weights: Tensor) -> Tensor:
    """The weights without negative ones, scaled to sum to K."""
    positive = weights.clamp_min(0.0)
    total = positive.sum()
    return torch.where(total > 0, positive * (len(positive) / total), 1.0)
