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
@pytest.mark.parametrize("seed", range(5))
def test_equal_rows_share_equally(parts: int, seed: int) -> None:
    """Up to their lengths, which leave rounding in the cosines between them."""
    rows = np.array([[1.0, 0, 0]] + parts * [[-0.6, 0.8, 0]] + [[-0.6, -0.8, 0.1]])
    rows *= np.random.default_rng(seed).uniform(0.1, 9, (len(rows), 1))
    solution = nonnegative_minimum(cosines_of(rows), cosines_of(rows)[:1])[0]
    assert solution[1] > 0.1
    np.testing.assert_allclose(solution[1 : parts + 1], solution[1], rtol=1e-6)


@pytest.mark.parametrize("angle", [1e-2, 1e-4, 1e-5, 1e-6])
def test_nearly_opposite_rows(angle: float) -> None:
    """What is left of both is small, and its direction matters all the same."""
    rows = np.array([[1.0, 0, 0], [-np.cos(angle), np.sin(angle), 0], [0.0, -1, 1]])
    cosines = cosines_of(rows)
    solution = nonnegative_minimum(cosines, cosines)
    assert optimal(cosines, cosines, solution) <= 1e-14
    assert solution[2].max() >= 0.1 / angle


@pytest.mark.parametrize("noise", [1e-7, 1e-6])
def test_products_that_float32_left_indefinite(noise: float) -> None:
    for seed in range(30):
        random = np.random.default_rng(seed)
        error = noise * random.standard_normal((12, 12))
        matrix = cosines_of(random.standard_normal((12, 3))) + error + error.T
        assert np.linalg.eigvalsh(matrix)[0] < -noise
        solution = nonnegative_minimum(matrix, matrix)
        assert solution.max() <= 20
        assert optimal(matrix, matrix, solution) <= 30 * noise


def test_opposite_gradients_in_float32_take_few_steps(monkeypatch) -> None:
    """Whose products are neither singular nor semi-definite, by a trifle."""
    faces = []
    minimum_of_face = nonnegative._minimum_of_face
    monkeypatch.setattr(
        nonnegative, "_minimum_of_face", lambda *given: faces.append(1) or minimum_of_face(*given)
    )
    for seed in range(40):
        random = np.random.default_rng(seed)
        rows = random.standard_normal((24, 41))
        rows[random.integers(0, 24, 12)] = -rows[0] + 1e-6 * random.standard_normal(41)
        rows = rows.astype(np.float32)
        cosines = norms_and_cosines((rows @ rows.T).astype(np.float64))[1]
        assert np.isfinite(nonnegative_minimum(cosines, cosines)).all()
    assert len(faces) < 40 * 24
