"""The quadratic program over nonnegative numbers: its optimality conditions, and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.jacobians import DEGENERATE, SEEDS, jacobian

from lossproof.terms.balance import nonnegative
from lossproof.terms.balance.cosines import norms_and_cosines
from lossproof.terms.balance.nonnegative import nonnegative_minimum


def cosines_of(matrix: np.ndarray) -> np.ndarray:
    return norms_and_cosines(matrix @ matrix.T)[1]


def optimal(matrix: np.ndarray, linear: np.ndarray, solution: np.ndarray) -> float:
    """How far the solution is from the conditions that only a minimum meets."""
    slope = solution @ matrix + linear
    size = 1.0 + solution.max()
    assert solution.min() >= 0.0
    return max(-slope.min(), np.abs(slope * solution).max() / size) / size


@settings(max_examples=80)
@given(SEEDS, st.integers(1, 16), st.integers(1, 24))
def test_the_conditions_of_optimality(seed: int, count: int, size: int) -> None:
    cosines = cosines_of(jacobian(seed, count, size))
    assert optimal(cosines, cosines, nonnegative_minimum(cosines, cosines)) <= 1e-13


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str) -> None:
    cosines = cosines_of(DEGENERATE[kind])
    assert optimal(cosines, cosines, nonnegative_minimum(cosines, cosines)) <= 1e-13


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 12))
def test_beside_scipy(seed: int, count: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, count + 3))
    goal = random.standard_normal(count + 3)
    wanted, _ = optimize.nnls(rows.T, goal)
    found = nonnegative_minimum(rows @ rows.T, -(rows @ goal)[None])[0]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_guesses_that_run_in_a_circle_are_solved_one_by_one(monkeypatch) -> None:
    """Where half as many directions as terms make most projections nearly zero."""
    calls = []
    one_by_one = nonnegative._one_by_one
    monkeypatch.setattr(
        nonnegative, "_one_by_one", lambda *given: calls.append(1) or one_by_one(*given)
    )
    cosines = cosines_of(np.random.default_rng(0).standard_normal((32, 16)))
    assert optimal(cosines, cosines, nonnegative_minimum(cosines, cosines)) <= 1e-13
    assert calls


def test_one_by_one_is_the_same_minimum() -> None:
    """From any start, and where the blocks need no help."""
    for seed in range(20):
        cosines = cosines_of(jacobian(seed, 9, 14))
        start = np.abs(np.random.default_rng(seed).standard_normal(9))
        for row in cosines:
            wanted = nonnegative_minimum(cosines, row[None])[0]
            found = nonnegative._one_by_one(cosines, row, start)
            np.testing.assert_allclose(found, wanted, atol=1e-11)


@pytest.mark.parametrize("parts", [2, 5])
def test_equal_rows_share_equally(parts: int) -> None:
    rows = np.array([[1.0, 0, 0]] + parts * [[-0.6, 0.8, 0]] + [[-0.6, -0.8, 0.1]])
    solution = nonnegative_minimum(cosines_of(rows), cosines_of(rows)[:1])[0]
    assert solution[1] > 0.1
    np.testing.assert_allclose(solution[1 : parts + 1], solution[1], rtol=1e-7)


def test_products_that_float32_left_indefinite() -> None:
    matrix = np.array([[1.0, -1 - 1e-7, 0.0], [-1 - 1e-7, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.linalg.eigvalsh(matrix)[0] < 0
    solution = nonnegative_minimum(matrix, matrix)
    assert np.isfinite(solution).all()
    np.testing.assert_allclose(solution[0], [0, 1, 0], atol=1e-5)
