"""The projection onto the dual cone of the gradients: the nearest step that opposes none."""

from __future__ import annotations

import numpy as np

from lossproof.terms.balance.cosines import norms_and_cosines
from lossproof.terms.balance.nonnegative import nonnegative_minimum
from lossproof.terms.balance.on_cpu import Array


def dual_cone_weights(gramian: Array, combinations: Array) -> Array:
    r"""The weights of the projections of combinations of the gradients onto their dual cone.

    The projection of :math:`J^\top u` onto :math:`\{d : J d \ge 0\}` is :math:`J^\top w` with

    .. math:: w = \arg\min_{v \ge u} \; v^\top J J^\top v

    The cone does not change when a gradient is scaled, so that the problem is solved on the
    cosines, with :math:`v_k \lVert g_k \rVert` as its unknowns: terms of any scale, and of scales
    that differ by any factor, give a matrix with ones on its diagonal.

    Args:
        gramian: the inner products of the gradients, K x K.
        combinations: u for each of m combinations, m x K, none negative.

    Returns:
        The weights w of each, m x K. A gradient of zero keeps its weight; all are NaN where the
        Gramian is not finite.

    Example:
        >>> import numpy as np
        >>> from lossproof.terms.balance.dual_cone import dual_cone_weights
        >>> gramian = np.array([[1.0, -1.0], [-1.0, 2.0]])
        >>> dual_cone_weights(gramian, np.eye(2)).tolist()
        [[1.0, 0.5], [1.0, 1.0]]
    """
    if not np.isfinite(gramian).all():
        return np.full_like(combinations, np.nan)
    if len(gramian) == 2:
        return _of_two(gramian, combinations)
    norms, cosines = norms_and_cosines(gramian)
    units = np.where(norms > 0.0, norms, 1.0)
    scaled = combinations * units
    # Each problem is solved at a scale of its own, as one may be as small as another is large.
    largest = scaled.max(1, keepdims=True)
    largest[largest == 0.0] = 1.0
    scaled /= largest
    raised = nonnegative_minimum(cosines, scaled @ cosines)
    weights: Array = combinations + raised * (norms > 0.0) * (largest / units)
    return weights


def _of_two(gramian: Array, combinations: Array) -> Array:
    """In closed form: who is opposed is raised until the combination is orthogonal to it."""
    (first, inner), (_, second) = gramian.tolist()
    weights: Array = combinations.copy()
    if inner >= 0.0:
        return weights
    for row in weights:
        one, other = row.tolist()
        row[0] = max(one, -inner * other / first) if first > 0.0 else one
        row[1] = max(other, -inner * one / second) if second > 0.0 else other
    return weights
