"""MGDA: the shortest convex combination of the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.cosines import norms_and_cosines
from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.balance.simplex import shortest_in_hull
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import choice

Tensor = torch.Tensor

NORMALIZATIONS = ("none", "l2", "loss", "loss+")


class MGDA(Balancer):
    r"""Multiple gradient descent: the shortest vector in the convex hull of the gradients.

    .. math::
        \min_{w} \; \Bigl\lVert \sum_k w_k \frac{g_k}{c_k} \Bigr\rVert
        \quad \text{subject to} \; w_k \ge 0, \; \sum_k w_k = 1

    Without a normalization the step lowers every term, those that have a weight equally fast and
    the others faster, and is zero exactly where the point is Pareto-stationary: where no step
    lowers all terms. It follows the term with the *smallest* gradient, and slows down or stops as
    soon as one term has converged. The normalizations counter that. The weights sum to 1.

    A term without a gradient is left out (its weight is 0): as the shortest vector it would end the
    training of all others. Where no term has one the weights are equal.

    With a normalization the weights are applied to the terms themselves, as in the authors' code,
    so that the step need not lower every term; LibMTL applies them to the normalized gradients.
    Both of these stop iterating short of the minimum, and never quite leave out one of two terms
    (their weights are 0.001 and 0.999), where this solution is exact. LibMTL and TorchJD's weights
    sum to 1, as here, and those of Nash-MTL's code to K.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        normalization: what each gradient is divided by before the problem is posed: ``"none"``, 1;
            ``"l2"``, its norm; ``"loss"``, the magnitude of the term; ``"loss+"``, the product of
            both. A term whose value is 0 has no weight under the last two.
        every: the weights are computed anew in every n-th step.

    Raises:
        ValueError: it is no such normalization.

    Example:
        >>> import torch
        >>> from lossproof.terms import MGDA
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> step = MGDA().backward({"a": x[0], "b": 2 * x[1]}, [x])
        >>> step.weights, x.grad
        (tensor([0.8000, 0.2000], dtype=torch.float64), tensor([0.8000, 0.4000]))

    Source:
        Desideri (2012), Multiple-gradient descent algorithm (MGDA) for multiobjective optimization,
        Comptes Rendus Mathematique 350; Sener and Koltun (2018), Multi-task learning as
        multi-objective optimization, NeurIPS.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        normalization: str = "none",
        every: int = 1,
    ) -> None:
        self.normalization = choice("normalization", normalization, NORMALIZATIONS)
        super().__init__(names, every=every)

    def weights_of(self, figures: TermGradients) -> Tensor:
        return _mgda_weights(figures.gramian, figures.values, self.normalization)


@on_cpu
def _mgda_weights(gramian: Array, values: Array, normalization: str) -> Array:
    scaled_by_value = normalization in ("loss", "loss+")
    if not np.isfinite(gramian).all() or (scaled_by_value and not np.isfinite(values).all()):
        return np.full(len(gramian), np.nan)
    norms, cosines = norms_and_cosines(gramian)
    if normalization in ("l2", "loss+"):
        norms = np.sign(norms)
    if scaled_by_value:
        # Divided by 0, a gradient is infinitely long, and as little a part of the shortest vector
        # as one of zero, which is left out.
        norms = norms / np.where(values == 0.0, np.inf, np.abs(values))
    return shortest_in_hull(norms, cosines)
