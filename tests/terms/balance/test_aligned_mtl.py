"""Aligned-MTL against the singular value decomposition of the gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.terms import TermGradients
from lossproof.terms.balance.aligned_mtl import SCALE_MODES, AlignedMTL

SCALES = st.sampled_from([1e-20, 1e-12, 1e-4, 1.0, 1e6, 1e20])
SEEDS = st.integers(0, 10**6)


def gradients(seed: int, count: int, size: int = 40, scale: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return scale * random.normal(size=(count, size)) * 10 ** random.uniform(-1, 1, (count, 1))


def weights_of(matrix: np.ndarray, **options: object) -> torch.Tensor:
    figures = TermGradients.from_matrix(torch.from_numpy(matrix))
    return AlignedMTL(figures.names, **options).weights_of(figures)


def by_the_paper(matrix: np.ndarray, preference: np.ndarray, mode: str) -> np.ndarray:
    """The aligned gradients are those of the decomposition with equal singular values."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    common = {
        "min": values.min(),
        "median": np.sort(values)[(len(values) - 1) // 2],
        "rmse": np.sqrt((values**2).mean()),
    }[mode]
    return preference @ (common * left @ right)


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 9), SCALES, st.sampled_from(SCALE_MODES))
def test_the_step_is_that_of_the_aligned_gradients(
    seed: int, count: int, scale: float, mode: str
) -> None:
    matrix = gradients(seed, count, scale=scale)
    preference = np.random.default_rng(seed + 1).uniform(0.1, 2, count)
    named = {str(k): float(part) for k, part in enumerate(preference)}
    weights = weights_of(matrix, preference=named, scale_mode=mode)
    wanted = by_the_paper(matrix, preference, mode)
    assert np.abs(weights.numpy() @ matrix - wanted).max() <= 1e-8 * np.linalg.norm(wanted)
    mean = by_the_paper(matrix, np.full(count, 1 / count), mode)
    found = weights_of(matrix, scale_mode=mode).numpy() @ matrix
    assert np.abs(found - mean).max() <= 1e-8 * np.linalg.norm(mean)


@pytest.mark.parametrize("mode", SCALE_MODES)
def test_beside_torchjd(mode: str) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed, count in ((0, 2), (1, 3), (2, 8)):
        matrix = gradients(seed, count)
        theirs = aggregation.AlignedMTL(scale_mode=mode)(torch.from_numpy(matrix))
        found = weights_of(matrix, scale_mode=mode) @ torch.from_numpy(matrix)
        torch.testing.assert_close(found, theirs, rtol=1e-8, atol=1e-10)


def test_by_hand() -> None:
    """Orthogonal gradients of the lengths 4 and 1 both get the length 1, and count half."""
    assert weights_of(np.diag([4.0, 1.0])).tolist() == pytest.approx([0.125, 0.5])


@settings(max_examples=25)
@given(SEEDS, st.integers(2, 6), SCALES)
def test_scale_and_permutation(seed: int, count: int, scale: float) -> None:
    matrix = gradients(seed, count)
    weights = weights_of(matrix)
    torch.testing.assert_close(weights_of(scale * matrix), weights, rtol=1e-6, atol=1e-9)
    order = np.random.default_rng(seed).permutation(count)
    moved = weights_of(matrix[order])
    torch.testing.assert_close(moved, weights[order], rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([torch.float32, torch.bfloat16]), st.sampled_from([1e-15, 1.0, 1e12]))
def test_no_aligned_gradient_is_opposed(seed: int, dtype: torch.dtype, scale: float) -> None:
    """The step has the product of 1/K with each of the orthogonal vectors."""
    matrix = (torch.from_numpy(gradients(seed, 4)) * scale).to(dtype)
    figures = TermGradients.from_matrix(matrix)
    exact = matrix.double().numpy()
    step = AlignedMTL(figures.names).weights_of(figures).numpy() @ exact
    left, values, right = np.linalg.svd(exact, full_matrices=False)
    products = (values.min() * left @ right) @ step
    np.testing.assert_allclose(products, values.min() ** 2 / 4, rtol=1e-3)


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ([[3.0, 4.0]], [1.0]),
        ([[0.0, 0.0]], [1.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.5, 0.5]),
        ([[2.0, 0.0], [0.0, 0.0]], [0.5, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [0.5, 0.5]),
        ([[1.0, 2.0], [-1.0, -2.0]], [0.0, 0.0]),
    ],
)
def test_degenerate_terms(matrix: list, wanted: list) -> None:
    assert weights_of(np.array(matrix)).tolist() == pytest.approx(wanted, abs=1e-12)


def test_equal_terms_of_float32_are_one_direction() -> None:
    """The rounding between two equal gradients is no direction of its own."""
    torch.manual_seed(0)
    one, other = torch.randn(2, 1000)
    figures = TermGradients.from_matrix(torch.stack([one, one * (1 + 1e-7), other]))
    weights = AlignedMTL(figures.names).weights_of(figures)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=0)
    assert bool((weights > 0.1).all())


def test_a_small_gradient_is_a_direction() -> None:
    """A term a million times smaller is not lost: all get its length."""
    weights = weights_of(np.diag([1.0, 1e-6, 1.0]))
    torch.testing.assert_close(
        weights, torch.tensor([1e-6, 1.0, 1e-6], dtype=torch.float64) / 3, rtol=1e-6, atol=0
    )


def test_a_short_gradient_may_be_opposed() -> None:
    """What is promised is promised of the aligned gradients, by the paper's formula, too."""
    matrix = np.array([[10.0, 0.0], [-0.9, 0.5]])
    for weights in (
        weights_of(matrix).numpy() @ matrix,
        by_the_paper(matrix, np.ones(2) / 2, "min"),
    ):
        first, second = matrix @ weights
        assert first > 0 > second


def test_many_terms_are_finite() -> None:
    for size in (5, 100):
        assert bool(weights_of(gradients(1, 32, size, 1e-15)).isfinite().all())


def test_a_step_fills_the_gradient() -> None:
    x = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    AlignedMTL().backward({"a": 4 * x[0], "b": x[1]}, [x])
    torch.testing.assert_close(x.grad, torch.tensor([0.5, 0.5], dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scale_mode": "max"}, ValueError, "`scale_mode` must be one of 'min', 'median', 'rmse'"),
        ({"preference": {"a": -1.0}}, ValueError, "`preference"),
        ({"preference": [1.0]}, TypeError, "`preference` must be a mapping"),
        ({"preference": {"a": 0.0}}, ValueError, "`preference` must hold a number above 0"),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        AlignedMTL(**options)
