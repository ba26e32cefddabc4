"""UPGrad and DualProj: a step that opposes no term, by projection onto the dual cone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.dual_cone import dual_cone_weights
from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.balance.preference import Preference
from lossproof.terms.gradients import TermGradients, Want

Tensor = torch.Tensor


class UPGrad(Balancer):
    r"""Unconflicting projection of gradients: each gradient is made harmless, then they are added.

    .. math::
        \sum_k w_k g_k = \sum_k u_k \, \pi(g_k), \qquad
        \pi(g) = \arg\min_{d} \lVert d - g \rVert \;
        \text{subject to} \; \langle g_j, d \rangle \ge 0 \; \text{for all } j

    No term is opposed by the step, :math:`\langle g_j, \sum_k w_k g_k \rangle \ge 0`, and without
    a conflict the weights are those of the preference, 1/K each, the mean. The weights are at least
    the preference and sum to nothing fixed. A term with a large gradient still has a large share,
    so that UPGrad does not balance magnitudes. A term without a gradient keeps its preference.

    The projections are exact, at any scale of the gradients. TorchJD adds 1e-4 to the diagonal of
    the Gramian, relative to its trace, and returns the mean, conflict or not, where the trace is
    below 1e-4.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        preference: u, a mapping from the name of each term to a number of at least 0. Without it
            each is 1/K.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: ``preference`` is no mapping from strings to numbers.
        ValueError: a number is negative, or all are 0; at the first step, a term has no number.

    Example:
        >>> import torch
        >>> from lossproof.terms import UPGrad
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> terms = {"a": x[0] - x[1], "b": x[1]}
        >>> step = UPGrad().backward(terms, [x])
        >>> step.weights, x.grad
        (tensor([0.7500, 1.0000], dtype=torch.float64), tensor([0.7500, 0.2500]))

    Source:
        Quinton and Rey (2024), Jacobian descent for multi-objective optimization, arXiv 2406.16232;
        the problem on the Gramian is its proposition 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        preference: Mapping[str, float] | None = None,
        every: int = 1,
    ) -> None:
        self.preference = Preference(preference)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self.preference.fits(self.names or ())
        return {}

    def weights_of(self, figures: TermGradients) -> Tensor:
        return _upgrad_weights(figures.gramian, self.preference.shares(figures.names))


class DualProj(Balancer):
    r"""The preferred combination of the gradients, projected onto their dual cone.

    .. math::
        \sum_k w_k g_k = \arg\min_{d} \; \Bigl\lVert d - \sum_k u_k g_k \Bigr\rVert
        \quad \text{subject to} \; \langle g_j, d \rangle \ge 0 \; \text{for all } j

    The step that is nearest to the mean and opposes no term. Unlike in :class:`UPGrad` a term with
    a large gradient may silence a small one: the step is then orthogonal to it. The weights are at
    least the preference and sum to nothing fixed. A term without a gradient keeps its preference.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        preference: u, a mapping from the name of each term to a number of at least 0. Without it
            each is 1/K.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: ``preference`` is no mapping from strings to numbers.
        ValueError: a number is negative, or all are 0; at the first step, a term has no number.

    Example:
        >>> import torch
        >>> from lossproof.terms import DualProj
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> terms = {"a": 4 * (x[0] - x[1]), "b": x[1]}
        >>> step = DualProj().backward(terms, [x])
        >>> step.weights, x.grad
        (tensor([0.5000, 2.0000], dtype=torch.float64), tensor([2., 0.]))

    Source:
        Lopez-Paz and Ranzato (2017), Gradient episodic memory for continual learning, NeurIPS,
        equation 11; named in Quinton and Rey (2024), arXiv 2406.16232.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        preference: Mapping[str, float] | None = None,
        every: int = 1,
    ) -> None:
        self.preference = Preference(preference)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self.preference.fits(self.names or ())
        return {}

    def weights_of(self, figures: TermGradients) -> Tensor:
        return _dualproj_weights(figures.gramian, self.preference.shares(figures.names))


@on_cpu
def _upgrad_weights(gramian: Array, preference: Sequence[float]) -> Array:
    weights: Array = dual_cone_weights(gramian, np.diag(preference)).sum(0)
    return weights


@on_cpu
def _dualproj_weights(gramian: Array, preference: Sequence[float]) -> Array:
    weights: Array = dual_cone_weights(gramian, np.array([preference]))[0]
    return weights
