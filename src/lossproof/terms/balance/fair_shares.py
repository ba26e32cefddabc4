"""The equations of Nash-MTL and FairGrad, where each term's weight balances what it gains."""

from __future__ import annotations

import numpy as np

from lossproof.terms.balance.cosines import norms_and_cosines
from lossproof.terms.balance.on_cpu import Array

_LARGEST = 1e6
"""How large, relative to those of orthogonal gradients, weights of gradients that cancel get."""
_POLISH = 1e-3
"""The part of an equation that the shift may be, if it is to be undone: if more, it is needed."""
_STEPS = 500
_CLOSE = 1e-8
"""A Newton step that changes no unknown by more, relative to it, leaves its square as the error."""
_BORDER = 0.99
"""The part of the way to a weight of zero that one step may go."""


def fair_shares(gramian: Array, alpha: float) -> Array:
    r"""The positive solution of :math:`(G w)_k = w_k^{-1 / \alpha}`.

    With :math:`w_k = x_k / \lVert g_k \rVert` it is where the gradient of a strictly convex
    function is zero, with the cosines C for its matrix:

    .. math:: (C x)_k = \lVert g_k \rVert^{1 / \alpha - 1} \, x_k^{-1 / \alpha}

    Newton's method, no step of which leaves the positive numbers, takes about six K x K systems,
    and a few dozen where the norms of two gradients differ by twelve decades.

    Args:
        gramian: the inner products of the gradients, K x K.
        alpha: above 0.

    Returns:
        K numbers. A term without a gradient is left out, its weight is 0; if none has one, the
        weights are 1. At a Pareto-stationary point, where a positive combination of the gradients
        is zero, there is no solution: the weights are up to 1e6 times those that orthogonal
        gradients would have (more for an alpha above 2), and the combination is as good as zero.
        All are NaN where the Gramian is not finite.

    Example:
        >>> import numpy as np
        >>> from lossproof.terms.balance.fair_shares import fair_shares
        >>> fair_shares(np.diag([4.0, 1.0]), alpha=1.0).round(9).tolist()
        [0.5, 1.0]
    """
    if not np.isfinite(gramian).all():
        return np.full(len(gramian), np.nan)
    norms, cosines = norms_and_cosines(gramian)
    there = norms > 0.0
    if not there.any():
        return np.ones_like(norms)
    lengths = norms[there]
    middle = float(np.exp(np.log(lengths).mean()))  # around it, powers of the lengths are in range
    relative = lengths / middle
    power = 1.0 / alpha
    shares = _balanced(cosines[np.ix_(there, there)], relative ** (power - 1.0), power)
    weights = np.zeros_like(norms)
    weights[there] = shares / relative * middle ** (-2.0 / (1.0 + power))
    return weights


def _balanced(cosines: Array, gain: Array, power: float) -> Array:
    """The x above 0 with ``cosines @ x == gain * x**-power``."""
    # Shifted, the matrix has a solution even where gradients cancel; elsewhere the shift is undone.
    matrix = _definite(cosines, min(max(_LARGEST ** (-1.0 - power), 1e-12), 1e-9))
    shift = float(matrix[0, 0] - cosines[0, 0])
    shares = _minimum(matrix, gain, power)
    for _ in range(2):
        wanted = gain * shares**-power
        if (shift * shares > _POLISH * wanted).any():
            break
        slope = cosines @ shares - wanted
        shares = shares + _newton_step(cosines, power * wanted / shares, slope)
    return shares


def _definite(cosines: Array, shift: float) -> Array:
    """The matrix with so much added to its diagonal that it is positive definite."""
    shifted: Array = cosines + shift * np.eye(len(cosines))
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        # Inner products of float32 gradients are known to 1e-6 or so: that is what is missing.
        shifted = shifted - 4.0 * min(0.0, np.linalg.eigvalsh(cosines)[0]) * np.eye(len(cosines))
    return shifted


def _minimum(matrix: Array, gain: Array, power: float) -> Array:
    """Newton's method, from the best multiple of the solution for orthogonal gradients."""
    shares: Array = gain ** (1.0 / (1.0 + power))
    multiple = float(gain @ shares ** (1.0 - power)) / float(shares @ matrix @ shares)
    shares = shares * multiple ** (1.0 / (1.0 + power))
    before = np.inf
    for _ in range(_STEPS):
        wanted = gain * shares**-power
        slope = matrix @ shares - wanted
        step = _newton_step(matrix, power * wanted / shares, slope)
        change = float(np.abs(step / shares).max())
        length = _length(matrix, gain, power, shares, step, slope)
        shares = shares + length * step
        # Below a change of 0.1 each is the square of the one before, until rounding is reached.
        if change < _CLOSE or (before < 0.1 and change > 0.5 * before):
            break
        before = change if length == 1.0 else np.inf
    return shares


def _newton_step(matrix: Array, curvature: Array, slope: Array) -> Array:
    hessian = matrix + np.diag(curvature)
    units = 1.0 / np.sqrt(hessian.diagonal())
    step: Array = -units * np.linalg.solve(hessian * units[:, None] * units, units * slope)
    return step


def _length(
    matrix: Array, gain: Array, power: float, shares: Array, step: Array, slope: Array
) -> float:
    """How far to go along the step: all the way, but for zero and for a slope that turns up."""
    fall = -float(step @ slope)
    border = float((-step / shares).max())
    length = 1.0 if border < _BORDER else _BORDER / border
    while length > np.finfo(np.float64).eps:
        ahead = shares + length * step
        if step @ (matrix @ ahead - gain * ahead**-power) <= 0.5 * abs(fall):
            break
        length *= 0.5
    return length
