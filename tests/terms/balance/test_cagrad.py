"""CAGrad: that no other step in the ball does better, which a bound by duality shows."""

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
    figures_of,
    jacobian,
    weights_of,
)

from lossproof.terms.balance.cagrad import CAGrad
from lossproof.terms.balance.mgda import MGDA
from lossproof.terms.balance.upgrad import DualProj

RADII = st.sampled_from([0.05, 0.4, 0.5, 0.99, 3.0])


def gap(matrix: np.ndarray, weights: np.ndarray, c: float) -> float:
    """How far the worst-off term is from a bound on what any step in the ball does for it.

    For any convex combination of the gradients, the best step in the ball does no more for the
    worst off than for the combination: its product with the mean, plus the radius times its length.
    """
    mean = matrix.mean(0)
    radius = c * np.linalg.norm(mean)
    step = weights @ matrix
    assert np.linalg.norm(step - mean) <= radius * (1 + 1e-9)
    added = weights - 1 / len(matrix)
    assert (added >= -1e-15).all()
    share = added / added.sum()
    bound = share @ matrix @ mean + radius * np.linalg.norm(share @ matrix)
    scale = np.linalg.norm(matrix, axis=1).max() * np.linalg.norm(mean)
    return float(bound - (matrix @ step).min()) / scale


@settings(max_examples=80)
@given(SEEDS, COUNTS, RADII, st.sampled_from([0, 1, 4]), DECADES)
def test_no_other_step_is_better(seed: int, count: int, c: float, spread: int, decade: int) -> None:
    matrix = jacobian(seed, count, count + 2, spread=spread)
    weights = weights_of(CAGrad(c=c), matrix * 10.0**decade)
    assert abs(gap(matrix, weights, c)) <= 1e-9


@settings(max_examples=15)
@given(SEEDS, st.integers(2, 6), st.sampled_from([0.3, 0.5]))
def test_beside_scipy_on_the_dual_problem(seed: int, count: int, c: float) -> None:
    """The authors' objective, without the 1e-8 that they add in four places."""
    optimize = pytest.importorskip("scipy.optimize")
    matrix = jacobian(seed, count, count + 4, spread=0.2)
    gramian = matrix @ matrix.T
    mean, radius = gramian.mean(1), c * np.sqrt(gramian.mean())
    result = optimize.minimize(
        lambda w: w @ mean + radius * np.sqrt(w @ gramian @ w),
        np.full(count, 1 / count),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
        options={"maxiter": 1000},
    )
    theirs = matrix.mean(0) + radius / np.linalg.norm(result.x @ matrix) * (result.x @ matrix)
    found = weights_of(CAGrad(c=c), matrix) @ matrix
    assert np.linalg.norm(found - theirs) <= 1e-3 * np.linalg.norm(theirs)
    assert (matrix @ found).min() >= (matrix @ theirs).min() - 1e-9


def test_by_hand() -> None:
    """(1, 0) and (0, 3): all of the radius, sqrt(10) / 4, goes along the first."""
    weights = weights_of(CAGrad(c=0.5), np.diag([1.0, 3.0]))
    np.testing.assert_allclose(weights, [0.5 + np.sqrt(10) / 4, 0.5])


@settings(max_examples=30)
@given(SEEDS, COUNTS)
def test_from_the_mean_to_mgda(seed: int, count: int) -> None:
    matrix = jacobian(seed, count, count + 2, spread=0.3)
    assert (weights_of(CAGrad(c=0.0), matrix) == 1 / count).all()
    step = weights_of(CAGrad(c=1e5), matrix) @ matrix
    shortest = weights_of(MGDA(), matrix) @ matrix
    cosine = step @ shortest / np.linalg.norm(step) / np.linalg.norm(shortest)
    assert cosine >= 1 - 1e-6


@settings(max_examples=30)
@given(SEEDS, COUNTS, RADII, DECADES)
def test_scale_and_order_of_the_terms(seed: int, count: int, c: float, decade: int) -> None:
    matrix = jacobian(seed, count, count + 2)
    wanted = weights_of(CAGrad(c=c), matrix)
    order = np.random.default_rng(seed).permutation(count)
    found = weights_of(CAGrad(c=c), matrix[order] * 10.0**decade)
    np.testing.assert_allclose(found, wanted[order], rtol=1e-6, atol=1e-9)


@settings(max_examples=20)
@given(SEEDS, COUNTS, st.integers(-18, 18), st.sampled_from([torch.float32, torch.bfloat16]))
def test_in_low_precision(seed: int, count: int, decade: int, dtype: torch.dtype) -> None:
    figures = figures_of(jacobian(seed, count, count + 2, spread=0.3) * 10.0**decade, dtype)
    rows = figures.gradient_rows()["parameter 0"].double().numpy() / 10.0**decade
    weights = CAGrad(c=0.4).weights_of(figures).numpy()
    assert abs(gap(rows, weights, 0.4 * (1 + 1e-5))) <= 1e-4


@pytest.mark.parametrize("c", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str, c: float) -> None:
    matrix = DEGENERATE[kind]
    weights = weights_of(CAGrad(c=c), matrix)
    count = len(matrix)
    assert np.isfinite(weights).all() and (weights >= 1 / count).all()
    assert (weights[~matrix.any(1)] == 1 / count).all()
    mean = np.linalg.norm(matrix.mean(0))
    assert np.linalg.norm(weights @ matrix - matrix.mean(0)) <= c * mean * (1 + 1e-6) + 1e-12


def test_without_a_common_descent_direction_it_is_the_projection() -> None:
    matrix = DEGENERATE["opposite"]
    found = weights_of(CAGrad(c=0.99), matrix) @ matrix
    np.testing.assert_allclose(found, weights_of(DualProj(), matrix) @ matrix, atol=1e-7)
    for seed in (0, 1, 4, 12):
        matrix = np.random.default_rng(seed).standard_normal((7, 3))
        weights = weights_of(CAGrad(c=3.0), matrix)
        assert weights.max() <= 3
        np.testing.assert_allclose(
            weights @ matrix, weights_of(DualProj(), matrix) @ matrix, atol=1e-13
        )
    around = DEGENERATE["around zero"]
    step = weights_of(CAGrad(c=0.4), around) @ around
    assert np.linalg.norm(step - around.mean(0)) == pytest.approx(
        0.4 * np.linalg.norm(around.mean(0))
    )


def test_what_cancels_but_for_rounding_has_no_direction() -> None:
    nearly = weights_of(CAGrad(c=0.99), DEGENERATE["nearly opposite"])
    assert nearly.max() <= 10
    for seed in range(10):
        matrix = jacobian(seed, 4, 6, spread=0)
        matrix = np.vstack([matrix, -matrix.sum(0)])
        assert (weights_of(CAGrad(c=0.5), matrix) == 0.2).all()


def test_a_single_term() -> None:
    assert weights_of(CAGrad(c=0.5), np.array([[3.0, 4.0]])).tolist() == pytest.approx([1.5])


@pytest.mark.parametrize(("c", "error"), [(-0.1, ValueError), ("a", TypeError), (None, TypeError)])
def test_wrong_radius(c: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="`c` must be a number of at least 0, got"):
        CAGrad(c=c)


def test_nan_gives_nan() -> None:
    assert CAGrad().weights_of(figures_of(np.array([[1.0, np.nan], [1, 1]]))).isnan().all()
