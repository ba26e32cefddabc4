"""Inverse-Dirichlet weighting for physics-informed networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.moving_average import moving_average
from lossproof.terms.balance.reached import entries, reached
from lossproof.terms.balance.reference import reference_among, reference_name
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor

_NO_SPREAD = 1e-4
"""Of the mean square. A variance below it may be nothing but the rounding of float32 sums."""


class InverseDirichlet(Balancer):
    r"""Weights that give the gradients of all terms the same standard deviation.

    .. math::
        \hat\lambda_k = \frac{\max_t \operatorname{std}(\nabla L_t)}
        {\operatorname{std}(\nabla L_k)}, \qquad
        \lambda_k \leftarrow (1 - \alpha)\, \lambda_k + \alpha\, \hat\lambda_k

    The standard deviation is over all entries of a gradient, of the parameters that the term
    depends on. The weights start at 1 and are not normalised. Directions and conflicts play no
    part. A gradient without spread leaves the weight of its term as it is: one that is zero, or of
    a single parameter, or whose deviation is below 1% of its root mean square, which sums in
    float32 cannot tell from rounding.

    Args:
        names: the names of the terms, in their order.
        reference: the term whose deviation stands in the numerator and whose weight is 1, as in the
            authors' code, where it is the residual of the equation. Without it the largest one, as
            in the paper.
        alpha: the part of the new value in the moving average, above 0 and at most 1.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or ``reference`` is no term.

    Example:
        >>> import torch
        >>> from lossproof.terms import InverseDirichlet
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> terms = {"pde": 9 * weight[0] - 9 * weight[1], "bc": weight[0] - weight[1]}
        >>> InverseDirichlet().backward(terms, [weight]).weights
        tensor([1.0000, 5.0000], dtype=torch.float64)

    Source:
        Maddu, Sturm, Müller and Sbalzarini (2022), Inverse Dirichlet weighting enables reliable
        training of physics informed neural networks, Machine Learning: Science and Technology 3(1).
    """

    needs: ClassVar[tuple[Want, ...]] = ("norm", "mean")
    averages: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        reference: str | None = None,
        alpha: float = 0.5,
        every: int = 1,
    ) -> None:
        self.reference = reference_name(reference)
        self.alpha = number("alpha", alpha, above=0, maximum=1)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        reference_among(self.reference, self.names or ())
        return {"averages": torch.ones(count, dtype=torch.float64)}

    def weights_of(self, figures: TermGradients) -> Tensor:
        deviations = _deviations(figures)
        if self.reference is None:
            top = deviations.amax()
        elif self.reference in figures.names:
            top = deviations[figures.names.index(self.reference)]
        else:
            return self.averages.clone()
        self.averages = moving_average(self.averages.to(top), top / deviations, self.alpha)
        return self.averages.clone()


def _deviations(figures: TermGradients) -> Tensor:
    """The standard deviation of the entries of each gradient; 0 where there is no spread."""
    counted = reached(figures) * entries(figures)
    counts = counted.sum(0).clamp_min(1.0)
    mean = (counted * figures.by_parameter("mean")).sum(0) / counts
    square = figures.vector("norm").square() / counts
    variance = square - mean.square()
    return torch.where(variance > _NO_SPREAD * square, variance, 0.0).sqrt()
