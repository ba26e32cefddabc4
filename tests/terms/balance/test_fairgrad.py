"""FairGrad: its equation, and the kinds of fairness that it passes through."""

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

from lossproof.terms.balance.fairgrad import FairGrad
from lossproof.terms.balance.nash_mtl import NashMTL

ALPHAS = st.sampled_from([0.5, 1.0, 2.0, 5.0, 10.0])


@settings(max_examples=80)
@given(SEEDS, COUNTS, ALPHAS, st.sampled_from([0, 1]), DECADES)
def test_the_equation(seed: int, count: int, alpha: float, spread: int, decade: int) -> None:
    matrix = jacobian(seed, count, count + 2, spread=spread) * 10.0**decade
    weights = weights_of(FairGrad(alpha=alpha), matrix)
    assert (weights > 0).all()
    gains = matrix @ (weights @ matrix)
    np.testing.assert_allclose(gains * weights ** (1 / alpha), 1, rtol=1e-7)


@settings(max_examples=30)
@given(SEEDS, COUNTS)
def test_scales_that_differ_by_twelve_decades(seed: int, count: int) -> None:
    matrix = jacobian(seed, count, 20 * count, spread=6)
    weights = weights_of(FairGrad(alpha=2.0), matrix)
    np.testing.assert_allclose((matrix @ (weights @ matrix)) * np.sqrt(weights), 1, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_beside_torchjd(count: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    pytest.importorskip("scipy")
    for seed in range(4):
        matrix = torch.from_numpy(jacobian(seed, count, 40, spread=0.1))
        theirs = aggregation.FairGradWeighting(2.0)(matrix @ matrix.T)
        found = FairGrad(alpha=2.0).weights_of(figures_of(matrix.numpy()))
        torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-3)


def test_where_torchjd_ends_in_conflict() -> None:
    matrix = 1e-3 * np.array([[-4.0, 1, 1], [6, 1, 1]])
    gains = matrix @ (weights_of(FairGrad(alpha=1.0), matrix) @ matrix)
    assert (gains > 0).all()


def test_by_hand() -> None:
    """Orthogonal gradients of lengths 1 and 8: w = length ** -(2 alpha / (1 + alpha))."""
    weights = weights_of(FairGrad(alpha=2.0), np.diag([1.0, 8.0]))
    np.testing.assert_allclose(weights, [1, 8 ** (-4 / 3)], rtol=1e-12)


@settings(max_examples=20)
@given(SEEDS, COUNTS)
def test_alpha_1_is_nash_mtl_and_a_large_one_equal_gains(seed: int, count: int) -> None:
    matrix = jacobian(seed, count, count + 3, spread=0.3)
    nash = weights_of(NashMTL(), matrix)
    np.testing.assert_allclose(weights_of(FairGrad(alpha=1.0), matrix), nash, rtol=1e-12)
    spreads = []
    for alpha in (1.0, 4.0, 30.0):
        gains = matrix @ (weights_of(FairGrad(alpha=alpha), matrix) @ matrix)
        spreads.append(np.log(gains.max() / gains.min()))
    assert spreads[0] >= spreads[1] - 1e-9 >= spreads[2] - 2e-9


@settings(max_examples=30)
@given(SEEDS, COUNTS, ALPHAS, DECADES)
def test_scale_and_order_of_the_terms(seed: int, count: int, alpha: float, decade: int) -> None:
    matrix = jacobian(seed, count, count + 2)
    wanted = weights_of(FairGrad(alpha=alpha), matrix)
    order = np.random.default_rng(seed).permutation(count)
    found = weights_of(FairGrad(alpha=alpha), matrix[order] * 10.0**decade)
    factor = 10.0 ** (-2.0 * alpha / (1 + alpha) * decade)
    np.testing.assert_allclose(found / factor, wanted[order], rtol=1e-6)


@settings(max_examples=20)
@given(SEEDS, COUNTS, st.integers(-15, 15), st.sampled_from([torch.float32, torch.bfloat16]))
def test_no_term_is_opposed_in_low_precision(
    seed: int, count: int, decade: int, dtype: torch.dtype
) -> None:
    figures = figures_of(jacobian(seed, count, count + 2) * 10.0**decade, dtype)
    weights = FairGrad().weights_of(figures)
    rows = figures.gradient_rows()["parameter 0"].double().numpy()
    step = figures.combined(weights)["parameter 0"].double().numpy()
    lengths = np.linalg.norm(rows, axis=1)
    allowed = 4 * torch.finfo(dtype).eps * lengths * (weights.numpy() @ lengths)
    assert (rows @ step >= -allowed).all()


@pytest.mark.parametrize("alpha", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str, alpha: float) -> None:
    matrix = DEGENERATE[kind]
    weights = weights_of(FairGrad(alpha=alpha), matrix)
    assert np.isfinite(weights).all() and (weights >= 0).all()
    if matrix.any():
        assert (weights[~matrix.any(1)] == 0).all()
    else:
        assert (weights == 1).all()
    assert conflict(matrix, weights) <= 1e-5


@pytest.mark.parametrize(
    ("alpha", "error"), [(0, ValueError), (-2.0, ValueError), ("2", TypeError)]
)
def test_wrong_alpha(alpha: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="`alpha` must be a number above 0, got"):
        FairGrad(alpha=alpha)


def test_nan_gives_nan() -> None:
    assert FairGrad().weights_of(figures_of(np.array([[1.0, np.nan], [1, 1]]))).isnan().all()
