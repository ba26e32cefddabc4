"""Dual-balancing multi-task learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.gradient_average import GradientAverage
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor


class DBMTL(Balancer):
    r"""Every term as its logarithm, and the gradients of all logarithms at the largest norm.

    .. math::
        \hat g_i \leftarrow \beta_t\, \hat g_i + (1 - \beta_t)\, \nabla \log L_i, \qquad
        \beta_t = \beta / t^\sigma, \qquad
        d = \max_j \lVert \hat g_j \rVert \sum_i \frac{\hat g_i}{\lVert \hat g_i \rVert}

    The unit of a term cancels in its logarithm. What is minimised moves along :math:`d`; the
    weights that are reported are those that give it where nothing is averaged,
    :math:`\max_j \lVert \hat g_j \rVert / (\lVert \hat g_i \rVert L_i)`. They sum to nothing in
    particular. Terms that are nearly solved are amplified without bound, and conflicts are not
    looked at. The averages cost K gradients of memory; ``beta=0`` needs none. Between refreshes
    (``every``) the weights are held and the gradients of the step are taken. In data-parallel
    training every rank averages its own gradients, and saves its own state.

    Args:
        names: the names of the terms, in their order.
        beta: the part of the old gradients in the moving average, at least 0 and below 1. The
            source chooses it for each data set from 0.1 to 0.9; 0.9 is LibMTL's default. Adam
            averages once more, so that with 0.9 for good the values may swing for long: less, or a
            ``sigma`` of 0.5, helps.
        sigma: how fast that part falls with the step, at least 0; the source has 0 or 0.5.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type, or ``backward`` is called without ``params``.
        ValueError: an option is out of range, or a term has a negative value. A term that is 0, or
            whose gradient is, has weight 0.

    Example:
        >>> import torch
        >>> from lossproof.terms import DBMTL
        >>> weight = torch.ones(2, requires_grad=True)
        >>> terms = {"a": 100 * weight[0], "b": weight[1] ** 2}
        >>> step = DBMTL(beta=0.0).backward(terms, [weight])
        >>> step.weights, weight.grad
        (tensor([0.0200, 1.0000], dtype=torch.float64), tensor([2., 2.]))

    Source:
        Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Tsang and Kwok (2023), Dual-balancing for multi-task
        learning, arXiv 2308.12029, algorithm 1. It adds 1e-8 to the losses and to the norms, which
        is left out here, for it makes the unit of a term matter.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gradients",)
    of_this_rank: ClassVar[tuple[str, ...]] = ("averages",)
    updates: Tensor
    positions: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        beta: float = 0.9,
        sigma: float = 0.0,
        every: int = 1,
    ) -> None:
        self.beta = number("beta", beta, minimum=0, below=1)
        self.sigma = number("sigma", sigma, minimum=0)
        if not self.beta:
            self.needs = ("norm",)  # type: ignore[misc]  # nothing is averaged
        super().__init__(names, every=every)
        self.averages = GradientAverage()

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self._count = len(self.names or ())
        return {
            "updates": torch.zeros((), dtype=torch.int64),
            "positions": torch.arange(count),  # of the terms that are present, where some are not
        }

    def weights_of(self, figures: TermGradients) -> Tensor:
        values = figures.values
        nonnegative("DBMTL", figures.names, values)
        inverse = torch.where(values > 0, 1.0 / values, 0.0)
        self.updates = self.updates + 1
        if not self.beta:
            norms = figures.vector("norm") * inverse
        else:
            share = self.beta / self.updates.to(values).pow(self.sigma)
            self.averages.update(
                figures.gradient_rows(), inverse, share, self.positions, self._count
            )
            shards = dict(zip(figures.parameters, figures.shards, strict=True))
            squares = self.over_ranks(
                lambda: self.averages.norms(self.positions, shards).square(), len(values)
            )
            norms = squares.sqrt()
        return torch.where(norms > 0, norms.amax() / norms, 0.0) * inverse

    def backward(self, terms: Mapping[str, Any], params: Any = None, **options: Any) -> BalanceStep:
        if self.beta and params is None:
            raise TypeError(
                "DBMTL averages gradients, and must know of which parameters: give `params`, or "
                "beta=0"
            )
        return super().backward(terms, params, **options)

    def gradients_of(self, figures: TermGradients, weights: Tensor) -> dict[str, Tensor]:
        if not self.beta:
            return super().gradients_of(figures, weights)
        return self.averages.combined(weights * figures.values, self.positions)
