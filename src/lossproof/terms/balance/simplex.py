"""Convex combinations: the projection onto the simplex, and the shortest vector of a hull."""

from __future__ import annotations

import numpy as np

from lossproof.terms.balance.nonnegative import nonnegative_minimum
from lossproof.terms.balance.on_cpu import Array


def projected_onto_simplex(point: Array) -> Array:
    """The nearest point with entries of at least 0 that sum to 1.

    Args:
        point: K finite numbers.

    Example:
        >>> import numpy as np
        >>> from lossproof.terms.balance.simplex import projected_onto_simplex
        >>> projected_onto_simplex(np.array([1.5, 1.0, -3.0])).tolist()
        [0.75, 0.25, 0.0]

    Source:
        Held, Wolfe and Crowder (1974), Validation of subgradient optimization, Mathematical
        Programming 6.
    """
    # What is 1 or more below the largest ends at 0 anyway, and so do not huge numbers lose the 1.
    raised = np.maximum(point - point.max(), -1.0)
    descending = np.sort(raised)[::-1]
    thresholds = (np.cumsum(descending) - 1.0) / np.arange(1, len(point) + 1)
    threshold = thresholds[np.count_nonzero(descending > thresholds) - 1]
    projected = np.maximum(raised - threshold, 0.0)
    nearest: Array = projected / projected.sum()
    return nearest


def shortest_in_hull(norms: Array, cosines: Array) -> Array:
    r"""The weights of the shortest vector in the convex hull of K vectors.

    .. math:: \min_\lambda \lVert \textstyle\sum_k \lambda_k g_k \rVert \;
        \text{subject to} \; \lambda \ge 0, \; \textstyle\sum_k \lambda_k = 1

    They are the solution of :math:`\min_{y \ge 0} y^\top G y + \sigma (1 - \sum_k y_k)^2`, for
    any :math:`\sigma > 0`, divided by its sum. With the square of the smallest norm for
    :math:`\sigma`, and unknowns that make the diagonal 1, no scale is lost.

    Args:
        norms: the norms of the vectors.
        cosines: the cosines between them, K x K.

    Returns:
        K numbers that sum to 1. Vectors of zero are left out, as their weight would be 1; if all
        are zero, the weights are equal. Equal vectors have equal weights.

    Example:
        >>> import numpy as np
        >>> from lossproof.terms.balance.simplex import shortest_in_hull
        >>> shortest_in_hull(np.array([1.0, 2.0]), np.eye(2)).tolist()
        [0.8, 0.2]
    """
    there = norms > 0.0
    if not there.any():
        return np.full_like(norms, 1.0 / len(norms))
    if not there.all():
        weights = np.zeros_like(norms)
        weights[there] = shortest_in_hull(norms[there], cosines[np.ix_(there, there)])
        return weights
    relative = norms / norms.min()
    if len(norms) == 2:
        return _of_two(*relative.tolist(), cosine=float(cosines[0, 1]))
    units = np.hypot(relative, 1.0)
    share, one = relative / units, 1.0 / units
    matrix = cosines * share[:, None] * share + one[:, None] * one
    multiples = nonnegative_minimum(matrix, -one[None])[0] * one
    combination: Array = multiples / multiples.sum()
    return combination


def _of_two(first: float, second: float, *, cosine: float) -> Array:
    """The foot of the perpendicular on the line between two vectors, or its nearer end."""
    inner = first * second * cosine
    towards_first, towards_second = second * second - inner, first * first - inner
    if towards_first <= 0.0 and towards_second <= 0.0:
        return np.array([0.5, 0.5])  # they are equal
    if towards_first <= 0.0:
        return np.array([0.0, 1.0])
    if towards_second <= 0.0:
        return np.array([1.0, 0.0])
    total = towards_first + towards_second
    return np.array([towards_first / total, towards_second / total])
