"""Weights that give the gradients of all terms the same norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.moving_average import moving_average
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor


class SelfAdaptiveNorms(Balancer):
    r"""Weights that give the gradients of all terms the same norm, the sum of all norms.

    .. math::
        \hat\lambda_i = \frac{\sum_j \lVert \nabla L_j \rVert}{\lVert \nabla L_i \rVert}, \qquad
        \lambda_i \leftarrow \alpha\, \lambda_i + (1 - \alpha)\, \hat\lambda_i

    The weights start at 1 and are not normalised; two terms of equal norm have weight 2 each, so
    the step grows with the number of terms. Directions and conflicts play no part. A term whose
    gradient is zero keeps its weight.

    Beware of the name ``alpha``: it is the part of the *old* weights, as in the source, and the
    other way round than in :class:`LearningRateAnnealing`. PINA's ``SelfAdaptiveWeighting`` takes
    no average: ``alpha=0``. The ``grad_norm`` of jaxpi has the mean of the norms in place of their
    sum, so its weights are K times smaller.

    Args:
        names: the names of the terms, in their order.
        alpha: the part of the old weights in the moving average, at least 0 and below 1.
        every: the weights are computed anew in every n-th step (1000 in the source).

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.terms import SelfAdaptiveNorms
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> terms = {"pde": 3 * weight[0] + 4 * weight[1], "bc": weight[0]}
        >>> SelfAdaptiveNorms(alpha=0.0).backward(terms, [weight]).weights
        tensor([1.2000, 6.0000], dtype=torch.float64)

    Source:
        Wang, Sankaran, Wang and Perdikaris (2023), An expert's guide to training physics-informed
        neural networks, arXiv 2308.08468, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("norm",)
    averages: Tensor

    def __init__(
        self, names: Sequence[str] | None = None, *, alpha: float = 0.9, every: int = 1
    ) -> None:
        self.alpha = number("alpha", alpha, minimum=0, below=1)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        return {"averages": torch.ones(count, dtype=torch.float64)}

    def weights_of(self, figures: TermGradients) -> Tensor:
        norms = figures.vector("norm")
        target = norms.sum() / norms
        self.averages = moving_average(self.averages.to(norms), target, 1 - self.alpha)
        return self.averages.clone()
