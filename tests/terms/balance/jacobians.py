"""Gradients to balance, as rows of a matrix: of every scale, and of every unpleasant kind."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from lossproof.terms import TermGradients
from lossproof.terms.balance.base import Balancer

SEEDS = st.integers(0, 2**20)
COUNTS = st.sampled_from([1, 2, 3, 4, 7, 12])
DECADES = st.integers(-20, 20)

DEGENERATE = {
    "all zero": np.zeros((3, 4)),
    "one zero": np.array([[1.0, 2, 0], [0, 0, 0], [-1, 1, 1]]),
    "equal": np.array([[1.0, 2, 0], [1, 2, 0], [-1, 1, 1]]),
    "opposite": np.array([[1.0, 2, 0], [-1, -2, 0], [0, 0, 1]]),
    "opposite pair": np.array([[1.0, -2], [-3, 6]]),
    "rank 1": np.outer([1.0, -0.3, 0.7, 5], [1.0, 2, 3]),
    "around zero": np.array([[1.0, 0], [-0.5, 0.9], [-0.6, -0.8], [0.1, 0.3]]),
    "nearly opposite": np.array([[1.0, 0, 0], [-1, 1e-9, 0], [0, 1, 1]]),
    "single": np.array([[3.0, 4]]),
    "single zero": np.zeros((1, 3)),
    "many": np.random.default_rng(0).standard_normal((32, 8)),
    "many equal": np.tile([[1.0, -1, 0], [-2, 1, 1]], (16, 1)),
}


def jacobian(seed: int, count: int, size: int | None = None, spread: float = 1.0) -> np.ndarray:
    """Random rows, whose lengths differ by powers of ten up to plus and minus `spread`."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, size or int(random.integers(1, 3 * count + 2))))
    rows -= 0.5 * random.random() * rows.mean(0)
    return rows * 10.0 ** random.uniform(-spread, spread, (count, 1))


def figures_of(
    matrix: np.ndarray, dtype: torch.dtype = torch.float64, values: torch.Tensor | None = None
) -> TermGradients:
    return TermGradients.from_matrix(torch.from_numpy(matrix).to(dtype), values=values)


def weights_of(balancer: Balancer, matrix: np.ndarray) -> np.ndarray:
    return balancer.weights_of(figures_of(matrix)).numpy()


def conflict(matrix: np.ndarray, weights: np.ndarray) -> float:
    """How far the combination opposes a row, over what cancels in it: rounding leaves 1e-16."""
    lengths = np.linalg.norm(matrix, axis=1)
    parts = lengths * (np.abs(weights) @ lengths)
    products = matrix @ (weights @ matrix)
    return float(np.max(-products / np.where(parts > 0, parts, 1.0), initial=0.0))


def opposition(matrix: np.ndarray, weights: np.ndarray) -> float:
    """The negative of the smallest cosine between the combination and a row."""
    step = weights @ matrix
    size = np.linalg.norm(matrix, axis=1) * np.linalg.norm(step)
    return float(np.max(-(matrix @ step) / np.where(size > 0, size, 1.0), initial=0.0))
