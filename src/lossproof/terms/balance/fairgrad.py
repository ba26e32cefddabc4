"""FairGrad: the step that shares its gain between the terms as fairly as it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.fair_shares import fair_shares
from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor


class FairGrad(Balancer):
    r"""Alpha-fair gains: from their sum (small alpha) to that of the worst-off term (large alpha).

    .. math:: (G w)_k = w_k^{-1 / \alpha}, \qquad G_{jk} = \langle g_j, g_k \rangle

    The gain of each term, :math:`\langle g_k, \sum_j w_j g_j \rangle`, is above 0, so that none is
    opposed. ``alpha=1`` is proportional fairness and the same as :class:`NashMTL`; 2 minimises the
    potential delay; the larger alpha is, the more equal are the gains, so that terms with *small*
    gradients decide. The weights sum to nothing fixed; if all gradients are multiplied by c, they
    are divided by :math:`c^{2 \alpha / (1 + \alpha)}`.

    A term without a gradient is left out, its weight is 0. At a Pareto-stationary point there is no
    solution, and the weights are finite ones whose combination is as good as zero; near to one they
    are large, against which the authors' code clips the norm of the gradient at 1, as ``clip`` of
    ``backward`` does.

    The equation is solved exactly at any scale. The authors' code, LibMTL and TorchJD minimise the
    squares of its residuals with absolute tolerances, so that small gradients end in conflict.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        alpha: how fair, above 0. The paper's experiments use 2, which is the default; in the
            authors' code it is 1.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: ``alpha`` is no number.
        ValueError: ``alpha`` is not above 0.

    Example:
        >>> import torch
        >>> from lossproof.terms import FairGrad
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> step = FairGrad(alpha=2.0).backward({"a": x[0], "b": 8 * x[1]}, [x])
        >>> step.weights, x.grad
        (tensor([1.0000, 0.0625], dtype=torch.float64), tensor([1.0000, 0.5000]))

    Source:
        Ban and Ji (2024), Fair resource allocation in multi-task learning, ICML.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self, names: Sequence[str] | None = None, *, alpha: float = 2.0, every: int = 1
    ) -> None:
        self.alpha = float(number("alpha", alpha, above=0.0))
        super().__init__(names, every=every)

    def weights_of(self, figures: TermGradients) -> Tensor:
        return _fairgrad_weights(figures.gramian, self.alpha)


@on_cpu
def _fairgrad_weights(gramian: Array, alpha: float) -> Array:
    return fair_shares(gramian, alpha)
