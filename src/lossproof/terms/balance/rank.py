"""Which directions the gradients of the terms really span, as opposed to rounding errors."""

from __future__ import annotations

import numpy as np

from lossproof.terms.balance.on_cpu import Array

SINGLE = float(np.finfo(np.float32).eps)
DOUBLE = float(np.finfo(np.float64).eps)


def rank_of(cosines: Array) -> int:
    """The number of directions among unit gradients.

    Gradients of float32 have cosines that are right to its precision. An eigenvalue below K times
    that, relative to the largest, is no direction but what rounding left of one: two terms whose
    gradients form an angle below about a thousandth count as one. It is told from the cosines, in
    which a term with a small gradient is as large as any other.

    Args:
        cosines: the cosines between the gradients, K x K.

    Example:
        >>> import numpy as np
        >>> from lossproof.terms.balance.rank import rank_of
        >>> rank_of(np.array([[1.0, 1.0 - 1e-8], [1.0 - 1e-8, 1.0]]))
        1
    """
    if not len(cosines):
        return 0
    values = np.linalg.eigvalsh(cosines)
    return int((values > values[-1] * len(cosines) * SINGLE).sum())


def spectrum(matrix: Array, rank: int) -> tuple[Array, Array]:
    """The largest eigenvalues of a symmetric matrix and their vectors, in columns.

    Args:
        matrix: symmetric and positive semi-definite.
        rank: how many; fewer, where float64 cannot tell one from zero.
    """
    if not rank:
        return np.zeros(0), np.zeros((len(matrix), 0))
    values, vectors = np.linalg.eigh(matrix)
    kept = values > values[-1] * len(matrix) * DOUBLE
    kept[: len(values) - rank] = False
    return values[kept], vectors[:, kept]
