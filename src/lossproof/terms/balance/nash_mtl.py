"""Nash-MTL: the step as the outcome of a bargain between the terms."""

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


class NashMTL(Balancer):
    r"""The Nash bargaining solution: the product of what the terms gain is as large as can be.

    .. math:: G w = 1 / w, \qquad G_{jk} = \langle g_j, g_k \rangle

    Each term gains the inverse of its weight, so that none is opposed, and the outcome does not
    depend on the scales of the terms: multiply one by a number, and its weight is divided by it.
    The length of the step is :math:`\sqrt K` whatever the gradients are, which asks for a decaying
    learning rate; the weights sum to nothing fixed, and grow as the gradients shrink.

    A term without a gradient is left out of the bargain, its weight is 0. At a Pareto-stationary
    point there is no solution, and the weights are finite ones whose combination is as good as
    zero.

    The equation is solved exactly. The authors' code, LibMTL and TorchJD approach it by a sequence
    of convex problems, which stops at a residual of 1e-3 or after 20 of them, and clip the norm of
    the step at 1, which is below :math:`\sqrt K`: with ``max_norm=1.0`` the steps are theirs.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        max_norm: the largest norm of the combined gradient; with a larger one, all weights are
            divided. Without it nothing is.
        every: the weights are computed anew in every n-th step, ``update_weights_every`` in the
            authors' code.

    Raises:
        TypeError: ``max_norm`` is no number.
        ValueError: ``max_norm`` is not above 0.

    Example:
        >>> import torch
        >>> from lossproof.terms import NashMTL
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> step = NashMTL().backward({"a": 2 * x[0], "b": 100 * (x[1] - x[0])}, [x])
        >>> step.weights, x.grad
        (tensor([0.9239, 0.0131], dtype=torch.float64), tensor([0.5412, 1.3066]))

    Source:
        Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya (2022), Multi-task learning
        as a bargaining game, ICML, claim 3.1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        max_norm: float | None = None,
        every: int = 1,
    ) -> None:
        self.max_norm = None if max_norm is None else float(number("max_norm", max_norm, above=0.0))
        super().__init__(names, every=every)

    def weights_of(self, figures: TermGradients) -> Tensor:
        weights = _nash_mtl_weights(figures.gramian)
        if self.max_norm is None:
            return weights
        norm = (weights @ figures.gramian @ weights).clamp_min(0.0).sqrt()
        return torch.where(norm > self.max_norm, weights * (self.max_norm / norm), weights)


@on_cpu
def _nash_mtl_weights(gramian: Array) -> Array:
    return fair_shares(gramian, 1.0)
