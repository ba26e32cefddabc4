"""Aligned-MTL: the system of gradients is made well-conditioned."""

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
from lossproof.write.arguments import choice

Tensor = torch.Tensor

SCALE_MODES = ("min", "median", "rmse")


class AlignedMTL(Balancer):
    r"""Aligned multi-task learning: the principal components of the gradients are made equal.

    .. math::
        w = \sigma \, V \Sigma^{-1} V^\top u, \qquad
        G = V \Sigma^2 V^\top, \qquad \sigma = \min_k \Sigma_{kk}

    with the Gramian G. The gradients are replaced by the nearest system of orthogonal vectors of
    one length, so that none conflicts with another and none dominates; the step is their
    combination u. It lowers each of these, but may oppose one of the gradients as they were, where
    that is much shorter than one that it conflicts with. With the smallest singular value as the
    scale it is as long as the weakest direction is, so that training slows down where two terms
    nearly agree or one has converged. The weights may be negative and sum to nothing fixed.

    Directions that are rounding errors are left out (see ``rank.py``): identical terms count as
    one, and a term without a gradient has the weight 0. Where no term has a gradient the weights
    are the preference. The authors' code and TorchJD tell them by the eigenvalues of the Gramian
    itself, in which a term with a gradient some thousand times smaller than another is lost too; it
    is kept here down to 1e-8 of the other. The authors' code adds the terms up (u = 1), where the
    paper and TorchJD take their mean.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        preference: u, a mapping from the name of each term to a number of at least 0. Without it
            each is 1/K.
        scale_mode: the common singular value: ``"min"``, the smallest, as in the paper;
            ``"median"``, the (lower) median; or ``"rmse"``, the root of the mean square.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: ``preference`` is no mapping from strings to numbers.
        ValueError: a number is negative, or all are 0, or it is no such mode; at the first step, a
            term has no number.

    Example:
        >>> import torch
        >>> from lossproof.terms import AlignedMTL
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> step = AlignedMTL().backward({"a": 4 * x[0], "b": x[1]}, [x])
        >>> step.weights, x.grad
        (tensor([0.1250, 0.5000], dtype=torch.float64), tensor([0.5000, 0.5000]))

    Source:
        Senushkin, Patakin, Kuznetsov and Konushin (2023), Independent component alignment for
        multi-task learning, CVPR, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        preference: Mapping[str, float] | None = None,
        scale_mode: str = "min",
        every: int = 1,
    ) -> None:
        self.preference = Preference(preference)
        self.scale_mode = choice("scale_mode", scale_mode, SCALE_MODES)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self.preference.fits(self.names or ())
        return {}

    def weights_of(self, figures: TermGradients) -> Tensor:
        preference = self.preference.shares(figures.names)
        return _aligned_weights(figures.gramian, preference, self.scale_mode)


@on_cpu
def _aligned_weights(gramian: Array, preference: Sequence[float], scale_mode: str) -> Array:
    if not np.isfinite(gramian).all():
        return np.full(len(gramian), np.nan)
    norms, cosines = norms_and_cosines(gramian)
    some = norms > 0
    if not some.any():
        return np.array(preference)
    relative = norms / norms.max()
    scaled = cosines * relative[:, None] * relative
    values, vectors = spectrum(scaled[np.ix_(some, some)], rank_of(cosines[np.ix_(some, some)]))
    common = {
        "min": values[0],
        "median": values[(len(values) - 1) // 2],
        "rmse": values.mean(),
    }[scale_mode]
    weights = np.zeros(len(gramian))
    weights[some] = vectors @ ((vectors.T @ np.array(preference)[some]) * np.sqrt(common / values))
    return weights
