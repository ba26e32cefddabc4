"""Quadratic programs over nonnegative numbers, many with one matrix, solved exactly.

Both the projection onto the dual cone of the gradients and the shortest vector of their convex hull
are such programs. An active-set method ends at the solution itself, where an iteration ends near
it: of the terms that were in conflict the step is then orthogonal to each, to rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lossproof.terms.balance.on_cpu import Array

Mask = npt.NDArray[np.bool_]

_LEAST_PIVOT = 1e-4
"""The least pivot of the Cholesky factor of a matrix that is solved as it is."""
_SHIFTS = (1e-8,) * 4 + (1e-10,) * 3 + (1e-13,) * 4
"""What is added to the diagonal of another, in each proximal step. Most end in the first ones; it
is two opposite gradients, of which rounding leaves hardly a trace, that need the last."""
_ROUNDING = 1e-12
"""A matrix with an eigenvalue below minus this is not semi-definite but for rounding."""
_MARGIN = 20.0
"""How much larger than an eigenvalue below zero the shift must be."""
_TOLERANCE = 4.0 * float(np.finfo(np.float64).eps)
"""A slope that is less negative than this, times K and the solution, is rounding."""
_PATIENCE = 3
"""Sweeps in which the number of wrong guesses may fail to shrink, as Kim and Park have it."""
_START_SHIFT = 1e-2
_ENTRIES = 10
_GUESS_STEPS = 4
_GUESS_STEP = 1.8
"""Over the largest row sum, below which descent converges up to 2."""


def nonnegative_minimum(matrix: Array, linear: Array) -> Array:
    r"""The minimum of a quadratic function over the nonnegative numbers, for many linear parts.

    .. math:: \min_{y \ge 0} \; \tfrac12 y^\top M y + q^\top y

    A matrix that is close to singular is shifted by a small multiple of the identity, and the
    shift undone by proximal steps, each the same problem with
    :math:`q - \varepsilon y_{\mathrm{before}}`: they end where the shift has no effect. Where the
    solution is not unique, as for two equal rows, it is the one that shares equally. A matrix that
    is not semi-definite, as products of float32 numbers are not quite, stays shifted.

    Args:
        matrix: M, symmetric and positive semi-definite up to rounding, K x K, with ones or so on
            its diagonal.
        linear: q for each of m problems, m x K.

    Returns:
        The solutions, m x K, none negative.

    Example:
        >>> import numpy as np
        >>> from lossproof.terms.balance.nonnegative import nonnegative_minimum
        >>> matrix = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> nonnegative_minimum(matrix, np.array([[-1.0, -1.0], [-1.0, 0.0]])).round(12).tolist()
        [[0.666666666667, 0.666666666667], [1.0, 0.0]]
    """
    guess = _guess(matrix, linear)
    if _well_conditioned(matrix):
        return _minimum(matrix, linear, guess)[0]
    least = float(np.linalg.eigvalsh(matrix)[0])
    if least > -_ROUNDING:
        return _proximal_steps(matrix, linear, guess, -_MARGIN * least)
    return _minimum(_shifted(matrix, max(_SHIFTS[0], -4.0 * least)), linear, guess)[0]


def _well_conditioned(matrix: Array) -> bool:
    try:
        return bool(np.linalg.cholesky(matrix).diagonal().min() > _LEAST_PIVOT)
    except np.linalg.LinAlgError:
        return False


def _shifted(matrix: Array, shift: float) -> Array:
    return matrix + shift * np.eye(len(matrix))


def _proximal_steps(matrix: Array, linear: Array, guess: Mask, least_shift: float) -> Array:
    """The minimum for a matrix that is close to singular."""
    solution, positive = _minimum(_shifted(matrix, _SHIFTS[0]), linear, guess)
    for step in _SHIFTS:
        before, shift = solution, max(step, least_shift)
        shifted = _shifted(matrix, shift)
        solution, positive = _minimum(shifted, linear - shift * before, positive)
        moved = shift * np.abs(solution - before).max(1)
        if np.all(moved <= np.finfo(np.float64).eps * (1.0 + solution.max(1))):
            break
    return solution


def _guess(matrix: Array, linear: Array) -> Mask:
    """Where the solutions are positive after a few steps of projected gradient descent.

    They cost as much as a small part of a sweep of exact solutions, and save one or two of these.
    """
    step = _GUESS_STEP / float(np.abs(matrix).sum(1).max())
    solution = np.maximum(-linear, 0.0)
    for _ in range(_GUESS_STEPS):
        solution = np.maximum(solution - step * (solution @ matrix + linear), 0.0)
    return solution > 0.0


def _minimum(matrix: Array, linear: Array, positive: Mask) -> tuple[Array, Mask]:
    """The solutions, and where they are positive, from a guess of where they are."""
    solution, positive, stuck = _by_blocks(matrix, linear, positive)
    if stuck.size:
        # Far from singular no guess runs in a circle, and the solution there is a start for here.
        easier = matrix + _START_SHIFT * np.eye(len(matrix))
        start = _by_blocks(easier, linear[stuck], positive[stuck])[0]
        for row, first in zip(stuck, np.maximum(start, 0.0), strict=True):
            solution[row] = _one_by_one(matrix, linear[row], first)
            positive[row] = solution[row] > 0.0
    return np.maximum(solution, 0.0), positive


def _by_blocks(
    matrix: Array, linear: Array, positive: Mask
) -> tuple[Array, Mask, npt.NDArray[np.intp]]:
    """Guess which entries are positive, solve, and exchange all that turn out to be wrong.

    Block principal pivoting (Kim and Park, 2011, Fast nonnegative matrix factorization, SIAM
    Journal on Scientific Computing 33(6)), in all problems at once. Some guesses may run in a
    circle; which problems these are is the third result.
    """
    solution = np.zeros_like(linear)
    fewest = np.full(len(linear), len(matrix) + 1)
    patience = np.full(len(linear), _PATIENCE)
    stuck = np.zeros(len(linear), dtype=np.bool_)
    todo = np.arange(len(linear))
    while todo.size:
        found = _solved(matrix, linear[todo], positive[todo])
        solution[todo] = found
        wrong = _wrong(found, found @ matrix + linear[todo], positive[todo])
        count = wrong.sum(1)
        patience[todo] = np.where(count < fewest[todo], _PATIENCE, patience[todo] - 1)
        fewest[todo] = np.minimum(count, fewest[todo])
        stuck[todo] = (count > 0) & (patience[todo] == 0)
        going = (count > 0) & (patience[todo] > 0)
        todo = todo[going]
        positive[todo] ^= wrong[going]
    return solution, positive, stuck.nonzero()[0]


def _wrong(solution: Array, slope: Array, positive: Mask) -> Mask:
    """Where a positive entry should not be so, or another should."""
    size = np.abs(solution).max(1, keepdims=True)
    rounding = _TOLERANCE * solution.shape[1] * np.maximum(size, 1.0)
    mistaken: Mask = np.where(positive, solution < 0.0, slope < -rounding)
    return mistaken


def _solved(matrix: Array, linear: Array, positive: Mask) -> Array:
    """For each problem the numbers at which the slope is zero in the positive entries."""
    problems, count = positive.shape
    most = int(positive.sum(1).max())
    if most == 0:
        return np.zeros_like(linear)
    # The positive entries of each problem, filled up to the same number for all with others.
    at = np.argsort(~positive, axis=1, kind="stable")[:, :most]
    real = np.take_along_axis(positive, at, 1)
    parts = matrix[at[:, :, None], at[:, None, :]]
    parts = np.where(real[:, :, None] & real[:, None, :], parts, np.eye(most))
    right = np.where(real, -np.take_along_axis(linear, at, 1), 0.0)
    solution = np.zeros((problems, count))
    np.put_along_axis(solution, at, np.linalg.solve(parts, right[:, :, None])[:, :, 0], 1)
    return solution


def _one_by_one(matrix: Array, linear: Array, start: Array) -> Array:
    """Let entries in one by one: each lowers the function, so that no guess comes back.

    Lawson and Hanson (1974), Solving least squares problems, chapter 23.
    """
    solution, positive = _minimum_of_face(matrix, linear, start, start > 0.0)
    for _ in range(_ENTRIES * len(linear)):  # by rounding alone could one come and go forever
        slope = np.where(positive, np.inf, matrix @ solution + linear)
        entering = int(slope.argmin())
        if slope[entering] >= -_TOLERANCE * len(linear) * max(1.0, float(solution.max())):
            break
        positive[entering] = True
        solution, positive = _minimum_of_face(matrix, linear, solution, positive)
    return solution


def _minimum_of_face(
    matrix: Array, linear: Array, solution: Array, positive: Mask
) -> tuple[Array, Mask]:
    """Go from a point to the minimum over the positive entries, less those that reach zero."""
    while True:
        target = _solved(matrix, linear[None], positive[None])[0]
        leaving = positive & (target <= 0.0)
        if not leaving.any():
            return target, positive
        reach = np.full_like(solution, np.inf)
        passed = np.maximum(solution - target, np.finfo(np.float64).tiny)
        reach[leaving] = solution[leaving] / passed[leaving]
        first = int(reach.argmin())
        solution = solution + reach[first] * (target - solution)
        positive = positive & (np.arange(len(positive)) != first) & (solution > 0.0)
        solution = np.where(positive, solution, 0.0)
