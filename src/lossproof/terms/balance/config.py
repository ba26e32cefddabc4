"""ConFIG: a step that makes the same angle with the gradients of all terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.cosines import norms_and_cosines
from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.balance.preference import Preference
from lossproof.terms.balance.rank import rank_of, spectrum
from lossproof.terms.gradients import TermGradients, Want

Tensor = torch.Tensor


class ConFIG(Balancer):
    r"""Conflict-free inverse gradients: the same cosine with every gradient, and the sum's length.

    .. math::
        \sum_k w_k g_k = \Bigl( \sum_k \langle g_k, v \rangle \Bigr) \, v, \qquad
        v = \frac{x}{\lVert x \rVert}, \qquad x = U^{+} u

    where the rows of U are the unit gradients, :math:`g_k / \lVert g_k \rVert`, and :math:`U^+` is
    the pseudo-inverse. All terms are lowered, with equal cosines (or as the preference u says),
    where the gradients are linearly independent. The step is the projection of the sum of the
    gradients onto that direction: it shortens as the terms come to oppose each other, and is zero
    where they do so exactly. A tiny gradient steers the step as much as a large one. The weights
    are about inverse to the norms; they may be negative and sum to nothing fixed.

    Gradients that are not linearly independent, up to rounding (see ``rank.py``), give the step of
    least squares: identical terms are one direction with the weight of both. A term without a
    gradient has no direction and the weight 0; the authors' code for two terms gives NaN there.

    It is computed from the K x K cosines. The authors' code and TorchJD solve a system of K x P
    numbers. The variant with momentum (M-ConFIG) is not this method.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        preference: u, a mapping from the name of each term to a number of at least 0: the cosines
            are proportional to them. Without it they are equal.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: ``preference`` is no mapping from strings to numbers.
        ValueError: a number is negative, or all are 0; at the first step, a term has no number.

    Example:
        >>> import torch
        >>> from lossproof.terms import ConFIG
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> step = ConFIG().backward({"a": 3 * x[0], "b": x[1]}, [x])
        >>> step.weights, x.grad
        (tensor([0.6667, 2.0000], dtype=torch.float64), tensor([2., 2.]))

    Source:
        Liu, Chu and Thuerey (2025), ConFIG: towards conflict-free training of physics informed
        neural networks, ICLR, equations 2 to 4; arXiv 2408.11104.
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
        return _config_weights(figures.gramian, self.preference.shares(figures.names))


@on_cpu
def _config_weights(gramian: Array, preference: Sequence[float]) -> Array:
    if not np.isfinite(gramian).all():
        return np.full(len(gramian), np.nan)
    norms, cosines = norms_and_cosines(gramian)
    some = norms > 0
    weights = np.zeros(len(gramian))
    if not some.any():
        return np.array(preference)
    wanted, lengths, cosines = np.array(preference)[some], norms[some], cosines[np.ix_(some, some)]
    values, vectors = spectrum(cosines, rank_of(cosines))
    parts = vectors @ (vectors.T @ wanted / values)
    reached = cosines @ parts
    square = parts @ reached
    # Preferences that no direction comes near leave nothing but rounding.
    if square > len(values) * 1e-14 * (wanted @ wanted):
        relative = lengths / lengths.max()
        weights[some] = parts / relative * (relative @ reached) / square
    return weights
