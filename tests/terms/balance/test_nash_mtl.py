"""Nash-MTL: the equation of its claim 3.1, and what follows from it."""

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

from lossproof.terms.balance.nash_mtl import NashMTL


@settings(max_examples=80)
@given(SEEDS, COUNTS, st.sampled_from([0, 1, 6]), DECADES)
def test_the_equation(seed: int, count: int, spread: int, decade: int) -> None:
    matrix = jacobian(seed, count, count + 2, spread=spread) * 10.0**decade
    weights = weights_of(NashMTL(), matrix)
    assert (weights > 0).all()
    np.testing.assert_allclose((matrix @ (weights @ matrix)) * weights, 1, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(weights @ matrix), np.sqrt(count), rtol=1e-9)


def test_it_maximises_the_product_of_the_gains() -> None:
    """Among all steps of its length: the bargain that the equation comes from."""
    random = np.random.default_rng(0)
    for seed in range(10):
        matrix = jacobian(seed, 4, 7, spread=0.3)
        step = weights_of(NashMTL(), matrix) @ matrix
        best = np.log(matrix @ step).sum()
        others = step + 0.05 * random.standard_normal((200, 7))
        others *= np.linalg.norm(step) / np.linalg.norm(others, axis=1, keepdims=True)
        gains = others @ matrix.T
        assert np.log(gains[(gains > 0).all(1)]).sum(1).max() < best


def test_by_hand() -> None:
    """For unit gradients with cosine c both weights are 1 / sqrt(1 + c)."""
    matrix = np.array([[1.0, 0], [-0.6, 0.8]])
    np.testing.assert_allclose(weights_of(NashMTL(), matrix), 1 / np.sqrt(0.4))


@settings(max_examples=30)
@given(SEEDS, COUNTS)
def test_scaled_terms_have_inversely_scaled_weights(seed: int, count: int) -> None:
    matrix = jacobian(seed, count, count + 2, spread=0)
    factors = 10.0 ** np.random.default_rng(seed).uniform(-10, 10, count)
    order = np.random.default_rng(seed).permutation(count)
    wanted = (weights_of(NashMTL(), matrix) / factors)[order]
    found = weights_of(NashMTL(), (matrix * factors[:, None])[order])
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


@settings(max_examples=20)
@given(SEEDS, COUNTS, st.integers(-15, 15), st.sampled_from([torch.float32, torch.bfloat16]))
def test_no_term_is_opposed_in_low_precision(
    seed: int, count: int, decade: int, dtype: torch.dtype
) -> None:
    figures = figures_of(jacobian(seed, count) * 10.0**decade, dtype)
    weights = NashMTL().weights_of(figures)
    rows = figures.gradient_rows()["parameter 0"].double().numpy()
    step = figures.combined(weights)["parameter 0"].double().numpy()
    lengths = np.linalg.norm(rows, axis=1)
    allowed = 4 * torch.finfo(dtype).eps * lengths * (weights.numpy() @ lengths)
    assert (rows @ step >= -allowed).all()


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str) -> None:
    matrix = DEGENERATE[kind]
    weights = weights_of(NashMTL(), matrix)
    lengths = np.linalg.norm(matrix, axis=1)
    assert np.isfinite(weights).all()
    if not matrix.any():
        assert (weights == 1).all()
        return
    assert (weights[lengths == 0] == 0).all() and (weights[lengths > 0] > 0).all()
    parts = lengths * (weights @ lengths)
    assert (matrix @ (weights @ matrix) >= -1e-10 * parts).all()


@pytest.mark.parametrize("kind", ["opposite", "opposite pair", "around zero"])
def test_what_cancels_has_no_step(kind: str) -> None:
    matrix = DEGENERATE[kind][:2] if kind == "opposite" else DEGENERATE[kind]
    weights = weights_of(NashMTL(), matrix)
    step = weights @ matrix
    assert np.linalg.norm(step) <= 1e-5 * (weights @ np.linalg.norm(matrix, axis=1))
    assert weights.max() <= 1e8


def test_the_norm_is_clipped_as_in_the_authors_code() -> None:
    matrix = jacobian(1, 5, 9)
    plain = weights_of(NashMTL(), matrix)
    clipped = weights_of(NashMTL(max_norm=1.0), matrix)
    np.testing.assert_allclose(clipped, plain / np.sqrt(5), rtol=1e-9)
    assert (weights_of(NashMTL(max_norm=3.0), matrix) == plain).all()
    assert (weights_of(NashMTL(max_norm=1.0), np.zeros((2, 3))) == 1).all()


@pytest.mark.parametrize(("norm", "error"), [(0, ValueError), (-1.0, ValueError), ("1", TypeError)])
def test_wrong_max_norm(norm: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="`max_norm` must be a number above 0, got"):
        NashMTL(max_norm=norm)
