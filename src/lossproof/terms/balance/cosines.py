"""The Gramian as norms and cosines: what depends on the scale of a term, and what does not."""

from __future__ import annotations

import numpy as np

from lossproof.terms.balance.on_cpu import Array


def norms_and_cosines(gramian: Array) -> tuple[Array, Array]:
    """The norm of each gradient, and the cosine between every two of them.

    A problem that is posed on the cosines has a matrix with ones on its diagonal, whatever the
    scales of the gradients are, so that it needs no number to tell small from zero.

    Args:
        gramian: the inner products of the gradients, K x K, finite.

    Returns:
        The K norms, 0 for a gradient of zero; and the cosines, within -1 and 1, with ones on the
        diagonal and zeros beside a gradient of zero.

    Example:
        >>> import numpy as np
        >>> from lossproof.terms.balance.cosines import norms_and_cosines
        >>> norms, cosines = norms_and_cosines(np.array([[4e-40, -1e-20], [-1e-20, 1.0]]))
        >>> norms.tolist(), cosines.tolist()
        ([2e-20, 1.0], [[1.0, -0.5], [-0.5, 1.0]])
    """
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    inverse = 1.0 / np.where(norms > 0.0, norms, np.inf)
    cosines = gramian * inverse[:, None] * inverse
    cosines = np.clip(0.5 * (cosines + cosines.T), -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    return norms, cosines
