"""MGDA: the shortest vector of the hull, the normalizations of the authors' code, and peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.jacobians import (
    COUNTS,
    DECADES,
    DEGENERATE,
    SEEDS,
    conflict,
    figures_of,
    jacobian,
    weights_of,
)

from lossproof.terms.balance.mgda import MGDA, NORMALIZATIONS


def normalized(matrix: np.ndarray, values: np.ndarray, normalization: str) -> np.ndarray:
    """The gradients, divided as by `gradient_normalizers` of the authors' code."""
    lengths = np.linalg.norm(matrix, axis=1)
    divisors = {
        "none": np.ones_like(values),
        "l2": lengths,
        "loss": values,
        "loss+": values * lengths,
    }
    return matrix / divisors[normalization][:, None]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@settings(max_examples=30)
@given(SEEDS, st.integers(1, 9), DECADES)
def test_it_is_the_shortest_of_the_normalized(
    normalization: str, seed: int, count: int, decade: int
) -> None:
    matrix = jacobian(seed, count, count + 3) * 10.0**decade
    values = 10.0 ** np.random.default_rng(seed).uniform(-3, 3, count)
    figures = figures_of(matrix, values=torch.from_numpy(values))
    weights = MGDA(normalization=normalization).weights_of(figures).numpy()
    assert (weights >= 0).all() and abs(weights.sum() - 1) <= 1e-12
    rows = normalized(matrix, values, normalization)
    step = weights @ rows
    lengths = np.linalg.norm(rows, axis=1)
    parts = weights @ lengths
    # The hull lies behind the plane through the foot: the condition that only the shortest meets.
    assert (rows @ step - step @ step >= -1e-12 * parts * (lengths + parts)).all()


def test_the_closed_form_for_two() -> None:
    """Sener and Koltun, equation 4 and algorithm 1."""
    for seed in range(50):
        one, other = matrix = jacobian(seed, 2, 3)
        gamma = np.clip((other - one) @ other / ((one - other) @ (one - other)), 0, 1)
        np.testing.assert_allclose(weights_of(MGDA(), matrix), [gamma, 1 - gamma], atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_beside_torchjd(count: int) -> None:
    """Its Frank-Wolfe steps come near to the length of the shortest, from above."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        matrix = torch.from_numpy(jacobian(seed, count, 40, spread=0.2))
        theirs = aggregation.MGDA(epsilon=1e-6, max_iters=3000)(matrix)
        found = MGDA().weights_of(figures_of(matrix.numpy())) @ matrix
        assert 1 - 1e-3 <= found.norm() / theirs.norm() <= 1 + 1e-12
        assert (found - theirs).norm() <= 0.05 * found.norm()


@settings(max_examples=50)
@given(SEEDS, COUNTS, st.sampled_from([0, 6]), DECADES)
def test_no_term_is_opposed(seed: int, count: int, spread: int, decade: int) -> None:
    matrix = jacobian(seed, count, spread=spread) * 10.0**decade
    assert conflict(matrix, weights_of(MGDA(), matrix)) <= 1e-12


@settings(max_examples=30)
@given(SEEDS, COUNTS, st.integers(-18, 18), st.sampled_from([torch.float32, torch.bfloat16]))
def test_no_term_is_opposed_in_low_precision(
    seed: int, count: int, decade: int, dtype: torch.dtype
) -> None:
    figures = figures_of(jacobian(seed, count) * 10.0**decade, dtype)
    weights = MGDA().weights_of(figures)
    rows = figures.gradient_rows()["parameter 0"].double().numpy()
    step = figures.combined(weights)["parameter 0"].double().numpy()
    lengths = np.linalg.norm(rows, axis=1)
    allowed = 4 * torch.finfo(dtype).eps * lengths * (weights.numpy() @ lengths)
    assert (rows @ step >= -allowed).all()


@settings(max_examples=30)
@given(SEEDS, COUNTS, DECADES)
def test_scale_and_order_of_the_terms(seed: int, count: int, decade: int) -> None:
    matrix = jacobian(seed, count, count + 3)
    wanted = weights_of(MGDA(), matrix)
    order = np.random.default_rng(seed).permutation(count)
    found = weights_of(MGDA(), matrix[order] * 10.0**decade)
    np.testing.assert_allclose(found, wanted[order], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_degenerate(normalization: str, kind: str) -> None:
    matrix = DEGENERATE[kind]
    weights = weights_of(MGDA(normalization=normalization), matrix)
    assert np.isfinite(weights).all() and abs(weights.sum() - 1) <= 1e-12
    dead = ~matrix.any(1)
    if dead.all():
        assert (weights == 1 / len(matrix)).all()
    else:
        assert (weights[dead] == 0).all()


def test_equal_terms_share() -> None:
    weights = weights_of(MGDA(), np.array([[1.0, 2, 0], [1, 2, 0], [-2, 1, 4]]))
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)
    assert weights[2] == pytest.approx(5 / 26, rel=1e-9)


@pytest.mark.parametrize("normalization", ["loss", "loss+"])
def test_a_value_of_zero_has_no_weight(normalization: str) -> None:
    values = torch.tensor([0.0, 1.0, 4.0])
    figures = figures_of(np.eye(3), values=values)
    weights = MGDA(normalization=normalization).weights_of(figures)
    assert weights.tolist() == pytest.approx([0, 1 / 17, 16 / 17])
    figures = figures_of(np.eye(3), values=torch.tensor([1.0, float("nan"), 1.0]))
    assert MGDA(normalization=normalization).weights_of(figures).isnan().all()


def test_wrong_normalization() -> None:
    with pytest.raises(ValueError, match="`normalization` must be one of 'none', 'l2', 'loss'"):
        MGDA(normalization="mean")
