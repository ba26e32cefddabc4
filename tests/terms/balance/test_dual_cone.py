"""The projection onto the dual cone: its definition, quadprog, and scales that differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.jacobians import COUNTS, DEGENERATE, SEEDS, jacobian

from lossproof.terms.balance.dual_cone import dual_cone_weights


def checked(matrix: np.ndarray, combinations: np.ndarray) -> np.ndarray:
    """The weights, for which the conditions that define the projection were tested.

    A projection p of x onto the cone of d with ``J d >= 0`` is one in the cone, with x - p in the
    polar cone (minus a combination with nonnegative weights) and orthogonal to p.
    """
    weights = dual_cone_weights(matrix @ matrix.T, combinations)
    lengths = np.linalg.norm(matrix, axis=1)
    for before, after in zip(combinations, weights, strict=True):
        added = after - before
        assert (added >= 0).all()
        step, parts = after @ matrix, after @ lengths
        assert ((matrix @ step) >= -1e-13 * lengths * parts).all()
        assert abs((added @ matrix) @ step) <= 1e-13 * parts**2
    return weights


@settings(max_examples=100)
@given(SEEDS, COUNTS, st.sampled_from([0, 1, 6]))
def test_the_definition_of_a_projection(seed: int, count: int, spread: int) -> None:
    matrix = jacobian(seed, count, spread=spread)
    random = np.random.default_rng(seed)
    checked(matrix, np.vstack([np.eye(count), random.random((2, count))]))


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str) -> None:
    matrix = DEGENERATE[kind]
    checked(matrix, np.vstack([np.eye(len(matrix)), np.ones(len(matrix))]))


@settings(max_examples=30)
@given(SEEDS, st.integers(2, 12))
def test_beside_quadprog(seed: int, count: int) -> None:
    quadprog = pytest.importorskip("quadprog")
    matrix = jacobian(seed, count, count + 5, spread=0.3)
    gramian = matrix @ matrix.T
    combinations = np.abs(np.random.default_rng(seed).standard_normal((4, count)))
    for row, found in zip(combinations, dual_cone_weights(gramian, combinations), strict=True):
        wanted = quadprog.solve_qp(gramian, np.zeros(count), np.eye(count), row)[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


@settings(max_examples=60)
@given(SEEDS, st.sampled_from([0, 6]))
def test_two_in_closed_form_are_three_with_one_of_zero(seed: int, spread: int) -> None:
    matrix = jacobian(seed, 2, 3, spread=spread)
    combinations = np.array([[1.0, 0], [0, 1], [0.5, 0.5]])
    found = dual_cone_weights(matrix @ matrix.T, combinations)
    more = np.vstack([matrix, np.zeros(3)])
    others = dual_cone_weights(more @ more.T, np.hstack([combinations, np.ones((3, 1))]))
    np.testing.assert_allclose(found, others[:, :2], rtol=1e-9)
    assert (others[:, 2] == 1.0).all()


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 8), st.integers(0, 2**20))
def test_scaled_rows_have_the_same_projections(seed: int, count: int, other: int) -> None:
    """The cone stays as it is; what is projected is not scaled, so its weights are divided."""
    matrix = jacobian(seed, count, count + 2, spread=0)
    factors = 10.0 ** np.random.default_rng(other).integers(-6, 7, count)
    scaled = matrix * factors[:, None]
    weights = dual_cone_weights(matrix @ matrix.T, np.eye(count))
    found = dual_cone_weights(scaled @ scaled.T, np.diag(1.0 / factors)) * factors
    np.testing.assert_allclose(found, weights, rtol=1e-9, atol=1e-12)


def test_what_is_not_finite_has_no_weights() -> None:
    for bad in (np.nan, np.inf):
        gramian = np.array([[1.0, bad, 0], [bad, 1, 0], [0, 0, 1]])
        assert np.isnan(dual_cone_weights(gramian, np.eye(3))).all()
