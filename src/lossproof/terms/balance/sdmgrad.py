"""SDMGrad: MGDA, drawn towards a preferred direction, from independent batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.balance.preference import Preference
from lossproof.terms.balance.samples import SampledBalancer, cross_products, scale_of
from lossproof.terms.balance.simplex import projected_onto_simplex
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import integer, number

Tensor = torch.Tensor


class SDMGrad(SampledBalancer):
    r"""Stochastic direction-oriented multi-objective gradient: MGDA near a preferred direction.

    .. math::
        \lambda \leftarrow \Pi_\Delta \bigl( \lambda - \beta \, J_1 J_2^\top (\lambda +
        \lambda_0 u) \bigr) \quad \text{n times}, \qquad w = \frac{\lambda + \lambda_0 u}
        {1 + \lambda_0}

    :math:`J_1` and :math:`J_2` hold the gradients of the terms on two independent batches, u is the
    preference, :math:`\Pi_\Delta` projects onto the simplex. It is the stochastic solution of the
    problem :math:`\min_\lambda \lVert J^\top (\lambda + \lambda_0 u) \rVert`: MGDA for
    :math:`\lambda_0 = 0`, the preferred direction for a large one. The weights sum to 1 over the
    terms, if the preference does. The shares :math:`\lambda` are kept from step to step. With the
    authors' large ``lr`` they do not settle for a few terms that hardly conflict, but jump from one
    corner of the simplex to another.

    As in the authors' code the products are divided by the squared mean length of the gradients
    first, so that the scale of the gradients does not matter; theirs adds 1e-4 to it, LibMTL and
    TorchJD 1e-8. Their code also makes one buffer of the three batches, so that it computes with
    the last one three times; here the batches are three.

    Each term is a sequence of scalars, one for each independent batch. The terms that are named and
    weighted are these, ``name[0]``, ``name[1]``, ...

    Args:
        names: the names of the terms, without the number of the sample. Without them they are taken
            from the first step.
        lambda_: how strongly the step is drawn towards the preferred direction, at least 0. The
            authors run theirs with 0.3, which is the default in LibMTL and TorchJD, too.
        preference: u, a mapping from the name of each term to a number of at least 0. Without it
            each is 1/K.
        lr: the step size of the shares, above 0; 10 in the authors' code and TorchJD, 5 in LibMTL.
        momentum: of these steps, at least 0 and below 1.
        n_iter: how many of them are taken at each refresh, at least 1.
        samples: 3, and the step is along the third alone, as in the paper; or 2, and it is along
            the mean of both.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.terms import SDMGrad
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> balancer = SDMGrad(lr=1.0, samples=2)
        >>> step = balancer.backward({"a": [x[0], 1.5 * x[0]], "b": [3 * x[1], x[1]]}, [x])
        >>> step.weights, x.grad
        (tensor([0.3332, 0.3332, 0.1668, 0.1668], dtype=torch.float64), tensor([0.8331, 0.6670]))

    Source:
        Xiao, Ban and Ji (2023), Direction-oriented multi-objective learning: simple and provable
        stochastic algorithms, NeurIPS, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        lambda_: float = 0.3,
        preference: Mapping[str, float] | None = None,
        lr: float = 10.0,
        momentum: float = 0.5,
        n_iter: int = 20,
        samples: int = 3,
        every: int = 1,
    ) -> None:
        self.lambda_ = float(number("lambda_", lambda_, minimum=0.0))
        self.preference = Preference(preference)
        self.lr = float(number("lr", lr, above=0.0))
        self.momentum = float(number("momentum", momentum, minimum=0.0, below=1.0))
        self.n_iter = integer("n_iter", n_iter, minimum=1)
        super().__init__(names, samples=samples, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self.preference.fits(self.terms)
        return super().initial_state(count)

    def weights_of(self, figures: TermGradients) -> Tensor:
        positions = self.positions(figures)
        preference = self.preference.shares(list(positions)) if positions else []
        self.shares = _sdmgrad_shares(
            figures.gramian,
            self.shares,
            [position for samples in positions.values() for position in samples],
            self.samples,
            [self.lambda_ * one for one in preference],
            self.lr,
            self.momentum,
            self.n_iter,
        )
        drawn = torch.zeros_like(self.shares)
        for samples, one in zip(positions.values(), preference, strict=True):
            drawn[samples] = self.lambda_ * one
        return self.weights_from((self.shares + drawn) / (1.0 + self.lambda_), positions)


@on_cpu
def _sdmgrad_shares(
    gramian: Array,
    shares: Array,
    positions: Sequence[int],
    samples: int,
    drawn: Sequence[float],
    lr: float,
    momentum: float,
    n_iter: int,
) -> Array:
    """The shares after the steps; as they were, where the products are not finite or all zero."""
    products = cross_products(gramian, positions, samples)
    rows = np.array(positions, dtype=np.intp).reshape(-1, samples)
    after: Array = shares.copy()
    if not rows.size or not np.isfinite(products).all():
        return after
    scale = scale_of(gramian, positions, samples)
    if scale == 0.0:
        return after
    products = products / scale / scale
    share, towards = shares[rows[:, 0]], np.array(drawn)
    velocity = np.zeros_like(share)
    for _ in range(n_iter):
        velocity = momentum * velocity + products @ (share + towards)
        share = projected_onto_simplex(share - lr * velocity)
    after[rows] = share[:, None]
    return after
