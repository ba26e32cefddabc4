"""Impartial multi-task learning: learned scales, and equal projections of the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.named_numbers import required_names
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.gradients import TermGradients, Want

Tensor = torch.Tensor

_SAME = 1e-7
"""Eigenvalues of the cosine matrix below this are noise: float32 knows a cosine to about 1e-7."""
_LEAST_SUM = 1e-6
"""Weights that sum to less, relative to the sum of their magnitudes, are not divided by it."""


class IMTLL(Balancer):
    r"""IMTL-L, the impartial loss balance: each term has a learned scale.

    .. math:: \sum_k e^{s_k} L_k - s_k

    The weights are :math:`e^{s_k}` and sum to nothing fixed. At the optimum every scaled value is
    1: it is the uncertainty weighting of a regression (:class:`UncertaintyWeights`), times 2, with
    :math:`s` negated.

    The scales are a parameter of the balancer: **give ``balancer.parameters()`` to the
    optimiser**, best without weight decay. A term whose value is exactly 0 leaves its scale as it
    is, which otherwise would grow forever.

    Args:
        names: the names of the terms, in their order.
        every: the weights *shown* are those of every n-th step; those that train are always of
            the present.

    Raises:
        ValueError: a term has a negative value, for which the sum has no minimum.

    Example:
        >>> import torch
        >>> from lossproof.terms import IMTLL
        >>> balancer = IMTLL(["a", "b"])
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> step = balancer.backward({"a": 4 * x, "b": 0.5 * x}, [x])
        >>> step.weights, balancer.log_scale.grad
        (tensor([1., 1.], dtype=torch.float64), tensor([ 3.0000, -0.5000]))

    Source:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang (2021), Towards impartial multi-task
        learning, ICLR, with the base a = e.
    """

    needs: ClassVar[tuple[Want, ...]] = ()

    def __init__(self, names: Sequence[str], *, every: int = 1) -> None:
        super().__init__(required_names(type(self).__name__, names), every=every)
        self.log_scale = nn.Parameter(torch.zeros(len(names)))

    def weights_of(self, figures: TermGradients) -> Tensor:
        nonnegative("IMTL-L", figures.names, figures.values)
        return self.log_scale.to(figures.values).exp()

    def objective(self, values: Tensor, weights: Tensor) -> Tensor:
        return _scaled_sum(values, self.log_scale)


class IMTLG(Balancer):
    r"""IMTL-G, the impartial gradient balance: all gradients have the same share in the step.

    .. math::
        g^\top \frac{g_1}{\lVert g_1 \rVert} = \dots = g^\top \frac{g_K}{\lVert g_K \rVert},
        \qquad g = \sum_k w_k g_k, \qquad \sum_k w_k = 1

    Solved in closed form: :math:`w_k \propto \beta_k / \lVert g_k \rVert` with
    :math:`C \beta = 1`, where :math:`C` is the matrix of cosines. The direction does not depend
    on the units of the terms. Weights may be negative, and large where gradients of different
    length nearly oppose each other. Where dividing by a negative sum would turn the step round (to
    ascend every term, as the paper's formula then does), the weights are divided by the magnitude
    of their sum instead, and sum to -1. A term without gradient gets weight 0; where gradients
    are dependent, :math:`\beta` is the shortest least-squares solution, and where that is 0 (two
    opposite gradients, whose shares can only both be 0) all :math:`\beta_k` are equal.

    Args:
        names: the names of the terms, in their order.
        every: the weights are computed anew in every n-th step.

    Example:
        >>> import torch
        >>> from lossproof.terms import IMTLG
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> IMTLG().backward({"a": 3 * x[0], "b": x[1]}, [x]).weights
        tensor([0.2500, 0.7500], dtype=torch.float64)

    Source:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang (2021), Towards impartial multi-task
        learning, ICLR. LibMTL inverts the matrix of the paper, which fails for
        dependent gradients.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def weights_of(self, figures: TermGradients) -> Tensor:
        return impartial_weights(figures.gramian)


class IMTL(Balancer):
    r"""IMTL, both balances: learned scales of the values, and equal shares of the gradients.

    .. math:: w_k = e^{s_k} \alpha_k, \qquad \min_s \sum_k e^{s_k} L_k - s_k

    where :math:`\alpha` are the weights of :class:`IMTLG` for the gradients of the scaled terms
    :math:`e^{s_k} L_k`, and sum to 1. The scales do not change the direction of the step, but its
    length: all scaled terms come near to 1. The gradient of the scales fills
    ``balancer.log_scale.grad`` beside that of the parameters.

    The scales are a parameter of the balancer: **give ``balancer.parameters()`` to the
    optimiser**, best without weight decay.

    Args:
        names: the names of the terms, in their order.
        every: :math:`\alpha` is computed anew in every n-th step.

    Raises:
        ValueError: a term has a negative value.

    Example:
        >>> import torch
        >>> from lossproof.terms import IMTL
        >>> balancer = IMTL(["a", "b"])
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> balancer.backward({"a": 3 * x[0], "b": x[1]}, [x]).weights, balancer.log_scale.grad
        (tensor([0.2500, 0.7500], dtype=torch.float64), tensor([2., 0.]))

    Source:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang (2021), Towards impartial multi-task
        learning, ICLR. There the parameters of a single term follow :math:`e^{s_k} L_k`, without
        :math:`\alpha_k`; here all parameters that are filled follow :math:`w_k L_k`.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(self, names: Sequence[str], *, every: int = 1) -> None:
        super().__init__(required_names(type(self).__name__, names), every=every)
        self.log_scale = nn.Parameter(torch.zeros(len(names)))

    def weights_of(self, figures: TermGradients) -> Tensor:
        nonnegative("IMTL", figures.names, figures.values)
        scales = self.log_scale.to(figures.values).exp()
        return scales * impartial_weights(scales[:, None] * figures.gramian * scales)

    def objective(self, values: Tensor, weights: Tensor) -> Tensor:
        learned = _scaled_sum(values.detach(), self.log_scale)
        return super().objective(values, weights) + learned - learned.detach()


def _scaled_sum(values: Tensor, parameter: Tensor) -> Tensor:
    log_scale = parameter.to(values)
    return (log_scale.exp() * values - torch.where(values == 0, 0.0, log_scale)).sum()


def impartial_weights(gramian: Tensor) -> Tensor:
    """The weights of IMTL-G from the inner products of the gradients.

    Example:
        >>> import torch
        >>> from lossproof.terms.balance.imtl import impartial_weights
        >>> impartial_weights(torch.tensor([[9.0, 0.0], [0.0, 1.0]]))
        tensor([0.2500, 0.7500])
    """
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    active = norms > 0
    safe = torch.where(active, norms, 1.0)
    ones = active.to(gramian)
    shares = _equal_projections(gramian / safe[:, None] / safe, ones)
    least = torch.where(active, norms, torch.inf).amin()
    weights = torch.where(active, shares * (least / safe), 0.0)
    total, magnitude = weights.sum().abs(), weights.abs().sum()
    weights = weights / torch.where(active.any(), torch.maximum(total, _LEAST_SUM * magnitude), 1.0)
    return torch.where(active.any(), weights, 1.0 / len(weights))


def _equal_projections(cosines: Tensor, ones: Tensor) -> Tensor:
    """The shortest solution of ``cosines @ shares = ones``; ``ones`` where that is zero."""
    values, vectors = torch.linalg.eigh(cosines)
    coordinates = torch.where(values > _SAME, ones @ vectors, 0.0)
    shares = vectors @ (coordinates / torch.where(values > _SAME, values, 1.0))
    none = coordinates.square().sum() <= 1e-12 * ones.sum()
    return torch.where(none, ones, shares)
