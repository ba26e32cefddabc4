"""MoDo: one step towards MGDA's weights at each training step, from two independent batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.balance.samples import SampledBalancer, cross_products, scale_of
from lossproof.terms.balance.simplex import projected_onto_simplex
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import flag, number

Tensor = torch.Tensor


class MoDo(SampledBalancer):
    r"""Multi-objective gradient with double sampling: MGDA's weights, without the bias of a batch.

    .. math::
        \lambda \leftarrow \Pi_\Delta \bigl( \lambda - \gamma \, (J_1 J_2^\top + \rho I) \lambda
        \bigr)

    :math:`J_1` and :math:`J_2` hold the gradients of the terms on two independent batches,
    :math:`\Pi_\Delta` projects onto the simplex. The weights are :math:`\lambda` after the step and
    sum to 1 over the terms; they move slowly, by :math:`\gamma`, from 1/K each.

    By the paper's formula :math:`\gamma` has the unit of one over a squared gradient: ten times
    smaller gradients need a hundred times larger :math:`\gamma`. With ``normalize=True`` the
    products are divided by the squared mean length of the gradients, and it has none.

    Each term is a sequence of scalars, one for each independent batch. The terms that are named and
    weighted are these, ``name[0]``, ``name[1]``, ...

    Args:
        names: the names of the terms, without the number of the sample. Without them they are taken
            from the first step.
        gamma: the step of the weights, above 0. It is 0.1 in the authors' code and in TorchJD,
            0.001 in LibMTL.
        rho: how strongly the weights are pulled towards equal ones, at least 0, in the unit of a
            squared gradient, or in none with ``normalize=True``.
        samples: 2, and the step is along the mean of both, as in equation 2.9; or 3, and it is
            along the third alone, as in LibMTL.
        normalize: whether the products are divided, so that the scale does not matter.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.terms import MoDo
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> balancer = MoDo(rho=0.0)
        >>> step = balancer.backward({"a": [x[0], 1.5 * x[0]], "b": [3 * x[1], x[1]]}, [x])
        >>> step.weights, x.grad
        (tensor([0.2687, 0.2687, 0.2312, 0.2312], dtype=torch.float64), tensor([0.6719, 0.9250]))

    Source:
        Chen, Fernando, Ying and Chen (2023), Three-way trade-off in multi-objective learning:
        optimization, generalization and conflict-avoidance, NeurIPS; JMLR 25 (2024), equation 2.9.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        gamma: float = 0.1,
        rho: float = 0.1,
        samples: int = 2,
        normalize: bool = False,
        every: int = 1,
    ) -> None:
        self.gamma = float(number("gamma", gamma, above=0.0))
        self.rho = float(number("rho", rho, minimum=0.0))
        self.normalize = flag("normalize", normalize)
        super().__init__(names, samples=samples, every=every)

    def weights_of(self, figures: TermGradients) -> Tensor:
        positions = self.positions(figures)
        self.shares = _modo_shares(
            figures.gramian,
            self.shares,
            [position for samples in positions.values() for position in samples],
            self.samples,
            self.gamma,
            self.rho,
            self.normalize,
        )
        return self.weights_from(self.shares, positions)


@on_cpu
def _modo_shares(
    gramian: Array,
    shares: Array,
    positions: Sequence[int],
    samples: int,
    gamma: float,
    rho: float,
    normalize: bool,
) -> Array:
    """The shares after one step, or as they were where the products are not finite."""
    products = cross_products(gramian, positions, samples)
    rows = np.array(positions, dtype=np.intp).reshape(-1, samples)
    after: Array = shares.copy()
    if not rows.size or not np.isfinite(products).all():
        return after
    if normalize:
        scale = scale_of(gramian, positions, samples)
        products = products / scale / scale if scale > 0.0 else products
    before = shares[rows[:, 0]]
    moved = projected_onto_simplex(before - gamma * (products @ before + rho * before))
    after[rows] = moved[:, None]
    return after
