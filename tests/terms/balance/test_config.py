"""ConFIG against the pseudo-inverse of the unit gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.terms import TermGradients
from lossproof.terms.balance.config import ConFIG

SCALES = st.sampled_from([1e-20, 1e-12, 1e-4, 1.0, 1e6, 1e20])
SEEDS = st.integers(0, 10**6)


def gradients(seed: int, count: int, size: int = 40, scale: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return scale * random.normal(size=(count, size)) * 10 ** random.uniform(-1, 1, (count, 1))


def weights_of(matrix: np.ndarray, **options: object) -> torch.Tensor:
    figures = TermGradients.from_matrix(torch.from_numpy(matrix))
    return ConFIG(figures.names, **options).weights_of(figures)


def by_the_paper(matrix: np.ndarray, preference: np.ndarray) -> np.ndarray:
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    direction = np.linalg.pinv(units, rcond=1e-6) @ preference
    direction = direction / np.linalg.norm(direction)
    return (matrix @ direction).sum() * direction


@settings(max_examples=50)
@given(SEEDS, st.integers(1, 9), SCALES)
def test_the_step_is_that_of_the_paper(seed: int, count: int, scale: float) -> None:
    matrix = gradients(seed, count, scale=scale)
    preference = np.random.default_rng(seed + 1).uniform(0.1, 2, count)
    named = {str(k): float(part) for k, part in enumerate(preference)}
    for options, given_to in (({}, np.ones(count)), ({"preference": named}, preference)):
        wanted = by_the_paper(matrix, given_to)
        found = weights_of(matrix, **options).numpy() @ matrix
        assert np.abs(found - wanted).max() <= 1e-9 * np.linalg.norm(wanted)


@settings(max_examples=40)
@given(SEEDS, st.integers(3, 6))
def test_dependent_gradients_give_the_step_of_least_squares(seed: int, count: int) -> None:
    """There are more terms than directions."""
    matrix = gradients(seed, count, size=2)
    wanted = by_the_paper(matrix, np.ones(count))
    found = weights_of(matrix).numpy() @ matrix
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(matrix).sum()


def test_beside_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed, count in ((0, 2), (1, 3), (2, 8)):
        matrix = gradients(seed, count)
        theirs = aggregation.ConFIG()(torch.from_numpy(matrix))
        found = weights_of(matrix) @ torch.from_numpy(matrix)
        torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-10)


def test_beside_the_authors_code() -> None:
    operators = pytest.importorskip("conflictfree.grad_operator")
    for seed, count in ((0, 2), (1, 3), (2, 8)):
        matrix = torch.from_numpy(gradients(seed, count)).float()
        theirs = operators.ConFIGOperator().calculate_gradient(matrix)
        found = weights_of(matrix.double().numpy()).float() @ matrix
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)


def test_by_hand() -> None:
    """The projection of (3, 1), the sum, on the bisector of (3, 0) and (0, 1)."""
    assert weights_of(np.diag([3.0, 1.0])).tolist() == pytest.approx([2 / 3, 2.0])


@settings(max_examples=30)
@given(SEEDS, st.integers(2, 6), SCALES, st.sampled_from([torch.float32, torch.bfloat16]))
def test_all_cosines_are_equal_and_positive(
    seed: int, count: int, scale: float, dtype: torch.dtype
) -> None:
    matrix = torch.from_numpy(gradients(seed, count, scale=scale)).to(dtype)
    figures = TermGradients.from_matrix(matrix)
    exact = matrix.double().numpy()
    step = ConFIG(figures.names).weights_of(figures).numpy() @ exact
    cosines = exact @ step / np.linalg.norm(exact, axis=1) / np.linalg.norm(step)
    assert (cosines > 0).all()
    np.testing.assert_allclose(cosines, cosines.mean(), rtol=1e-4)


@settings(max_examples=25)
@given(SEEDS, st.integers(2, 6), SCALES)
def test_scale_and_permutation(seed: int, count: int, scale: float) -> None:
    matrix = gradients(seed, count)
    weights = weights_of(matrix)
    torch.testing.assert_close(weights_of(scale * matrix), weights, rtol=1e-9, atol=0)
    order = np.random.default_rng(seed).permutation(count)
    torch.testing.assert_close(weights_of(matrix[order]), weights[order], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ([[3.0, 4.0]], [1.0]),
        ([[0.0, 0.0]], [1.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.5, 0.5]),
        ([[2.0, 0.0], [0.0, 0.0]], [1.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [1.0, 1.0]),
        # Opposed: no direction has a cosine above 0 with both.
        ([[1.0, 2.0], [-3.0, -6.0]], [0.0, 0.0]),
        # The bisector of (1, 0), which is there twice, and (0, 1); the sum is (2, 1).
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0.75, 0.75, 1.5]),
    ],
)
def test_degenerate_terms(matrix: list, wanted: list) -> None:
    assert weights_of(np.array(matrix)).tolist() == pytest.approx(wanted, abs=1e-12)


def test_nearly_opposed_terms_do_not_blow_up() -> None:
    """Up to the rounding of float32 they are opposed."""
    torch.manual_seed(0)
    one = torch.randn(1000)
    figures = TermGradients.from_matrix(torch.stack([one, -one * (1 + 1e-7)]))
    weights = ConFIG(figures.names).weights_of(figures)
    assert float((weights @ torch.stack([one, -one]).double()).norm() / one.norm()) < 1e-3
    assert bool((weights.abs() < 10).all())


def test_many_terms_are_finite() -> None:
    for size in (5, 100):
        assert bool(weights_of(gradients(1, 32, size, 1e-15)).isfinite().all())


def test_a_step_fills_the_gradient() -> None:
    x = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    ConFIG().backward({"a": 3 * x[0], "b": x[1]}, [x])
    torch.testing.assert_close(x.grad, torch.tensor([2.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"preference": {"a": -1.0}}, ValueError, "`preference"),
        ({"preference": [1.0]}, TypeError, "`preference` must be a mapping"),
        ({"every": 0}, ValueError, "`every` must be"),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ConFIG(**options)
