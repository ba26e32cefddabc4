"""The projection onto the simplex, and the shortest vector of a convex hull."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.jacobians import COUNTS, DECADES, DEGENERATE, SEEDS, jacobian

from lossproof.terms.balance.cosines import norms_and_cosines
from lossproof.terms.balance.simplex import projected_onto_simplex, shortest_in_hull


def by_bisection(point: np.ndarray) -> np.ndarray:
    """The threshold above which the entries sum to 1, by halving an interval that holds it."""
    low, high = point.min() - 1.0, point.max()
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.maximum(point - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(point - high, 0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12))
def test_projection(numbers: list[float]) -> None:
    point = np.array(numbers)
    np.testing.assert_allclose(projected_onto_simplex(point), by_bisection(point), atol=1e-10)


@given(st.lists(st.sampled_from([-1e300, -1e20, -1.0, 0.0, 0.3, 1e20, 1e300]), min_size=1))
def test_projection_of_huge_numbers(numbers: list[float]) -> None:
    found = projected_onto_simplex(np.array(numbers))
    assert (found >= 0).all() and abs(found.sum() - 1) <= 1e-12
    assert found[np.argmax(numbers)] > 0


def shortest(matrix: np.ndarray) -> np.ndarray:
    """The weights, for which it was tested that no point of the hull is nearer to zero."""
    weights = shortest_in_hull(*norms_and_cosines(matrix @ matrix.T))
    lengths = np.linalg.norm(matrix, axis=1)
    assert (weights >= 0).all() and abs(weights.sum() - 1) <= 1e-12
    step, parts = weights @ matrix, weights @ lengths
    there = lengths > 0
    gaps = (matrix @ step - step @ step)[there]
    assert (gaps >= -1e-12 * parts * (lengths[there] + parts)).all()
    return weights


@settings(max_examples=100)
@given(SEEDS, COUNTS, st.sampled_from([0, 1, 6]), DECADES)
def test_no_point_of_the_hull_is_nearer(seed: int, count: int, spread: int, decade: int) -> None:
    shortest(jacobian(seed, count, spread=spread) * 10.0**decade)


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str) -> None:
    shortest(DEGENERATE[kind])


def test_by_hand() -> None:
    np.testing.assert_allclose(shortest(np.diag([1.0, 2.0, 0.5])), np.array([4, 1, 16]) / 21)
    np.testing.assert_allclose(shortest(np.array([[1.0, 0], [3, 1]])), [1, 0])
    np.testing.assert_allclose(shortest(np.array([[1.0, 0], [-3, 0]])), [0.75, 0.25])


def test_vectors_of_zero_are_left_out_and_equal_ones_share() -> None:
    assert shortest_in_hull(np.array([0.0, 2.0]), np.eye(2)).tolist() == [0, 1]
    assert shortest_in_hull(np.zeros(4), np.eye(4)).tolist() == [0.25] * 4
    for equal in (2, 3, 5):
        np.testing.assert_allclose(shortest(np.tile([[1.0, 2.0]], (equal, 1))), 1 / equal)
