"""UPGrad and DualProj: the paper's definition, TorchJD's numbers, and no conflict at any scale."""

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
    opposition,
    weights_of,
)

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.upgrad import DualProj, UPGrad

BOTH = pytest.mark.parametrize("method", [UPGrad, DualProj])
Method = type[Balancer]


def projected(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Onto the dual cone, by Moreau: the vector plus its projection on the cone of the rows."""
    optimize = pytest.importorskip("scipy.optimize")
    multiples, _ = optimize.nnls(matrix.T, -vector)
    return vector + multiples @ matrix


@settings(max_examples=50)
@given(SEEDS, st.integers(1, 9))
def test_the_definition(seed: int, count: int) -> None:
    matrix = jacobian(seed, count, count + 4)
    preference = {str(k): float(k % 3) for k in range(count)} | {"0": 1.0}
    of_terms = np.array(list(preference.values()))
    for given_to, shares in ((None, np.full(count, 1 / count)), (preference, of_terms)):
        each = sum(u * projected(matrix, row) for u, row in zip(shares, matrix, strict=True))
        found = weights_of(UPGrad(preference=given_to), matrix) @ matrix
        np.testing.assert_allclose(found, each, atol=1e-9 * np.abs(matrix).sum())
        mean = projected(matrix, shares @ matrix)
        found = weights_of(DualProj(preference=given_to), matrix) @ matrix
        np.testing.assert_allclose(found, mean, atol=1e-9 * np.abs(matrix).sum())


@BOTH
@pytest.mark.parametrize("count", [2, 3, 8, 20])
def test_beside_torchjd(method: Method, count: int) -> None:
    """By default it adds 1e-4 to the diagonal, which is then the difference."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    linalg = pytest.importorskip("torchjd.linalg")
    theirs_of = getattr(aggregation, method.__name__)
    for seed in range(5):
        matrix = torch.from_numpy(jacobian(seed, count, 60, spread=0.2))
        found = method().weights_of(figures_of(matrix.numpy())) @ matrix
        exact = linalg.QuadprogProjector(norm_eps=0.0, reg_eps=1e-13)
        torch.testing.assert_close(found, theirs_of(projector=exact)(matrix), rtol=0, atol=1e-8)
        default = theirs_of()(matrix)
        assert (found - default).norm() <= 0.01 * default.norm()


def test_where_torchjd_returns_the_mean() -> None:
    matrix = np.array([[-4.0, 1, 1], [6, 1, 1]])
    mean = np.full(2, 0.5)
    assert opposition(matrix, mean) > 0.1
    wanted = weights_of(UPGrad(), matrix)
    np.testing.assert_allclose(weights_of(UPGrad(), 1e-3 * matrix), wanted, rtol=1e-12)
    assert opposition(1e-3 * matrix, wanted) <= 1e-15


def test_by_hand() -> None:
    """(1, 0) and (-1, 1): the projections are (1/2, 1/2) and (0, 1)."""
    matrix = np.array([[1.0, 0], [-1, 1]])
    np.testing.assert_allclose(weights_of(UPGrad(), matrix) @ matrix, [0.25, 0.75])
    np.testing.assert_allclose(weights_of(DualProj(), matrix) @ matrix, [0, 0.5])
    preference = {"0": 1.0, "1": 0.0}
    np.testing.assert_allclose(
        weights_of(UPGrad(preference=preference), matrix) @ matrix, [0.5, 0.5]
    )


@BOTH
@settings(max_examples=60)
@given(SEEDS, COUNTS, st.sampled_from([0, 1, 6]), DECADES)
def test_no_term_is_opposed(
    method: Method, seed: int, count: int, spread: int, decade: int
) -> None:
    matrix = jacobian(seed, count, spread=spread) * 10.0**decade
    weights = weights_of(method(), matrix)
    assert conflict(matrix, weights) <= 3e-14
    if np.linalg.matrix_rank(matrix) == count:
        well_known = weights @ np.linalg.norm(matrix, axis=1)
        if np.linalg.norm(weights @ matrix) > 1e-4 * well_known:
            assert opposition(matrix, weights) <= 1e-10


@BOTH
@settings(max_examples=30)
@given(SEEDS, COUNTS, st.integers(-18, 18), st.sampled_from([torch.float32, torch.bfloat16]))
def test_no_term_is_opposed_in_low_precision(
    method: Method, seed: int, count: int, decade: int, dtype: torch.dtype
) -> None:
    """The weights are right for the rounded gradients, and the step is as good as its dtype."""
    figures = figures_of(jacobian(seed, count) * 10.0**decade, dtype)
    weights = method().weights_of(figures)
    rows = figures.gradient_rows()["parameter 0"].double().numpy()
    assert conflict(rows, weights.numpy()) <= 1e-6
    step = figures.combined(weights)["parameter 0"].double().numpy()
    lengths = np.linalg.norm(rows, axis=1)
    allowed = 4 * torch.finfo(dtype).eps * lengths * (weights.numpy() @ lengths)
    assert (rows @ step >= -allowed).all()


@BOTH
@settings(max_examples=40)
@given(SEEDS, COUNTS, DECADES)
def test_the_scale_of_all_gradients_does_not_matter(
    method: Method, seed: int, count: int, decade: int
) -> None:
    matrix = jacobian(seed, count, count + 3)
    wanted = weights_of(method(), matrix)
    found = weights_of(method(), matrix * 10.0**decade)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


@settings(max_examples=40)
@given(SEEDS, COUNTS)
def test_upgrad_is_linear_under_scaling(seed: int, count: int) -> None:
    """The third of the paper's three properties: the step is linear in the scales of the terms."""
    matrix = jacobian(seed, count, count + 3, spread=0)
    random = np.random.default_rng(seed)
    one, other = 10.0 ** random.uniform(-6, 6, (2, count, 1))
    steps = [
        weights_of(UPGrad(), factors * matrix) @ (factors * matrix)
        for factors in (one, other, one + other)
    ]
    np.testing.assert_allclose(steps[0] + steps[1], steps[2], atol=1e-9 * np.abs(one + other).max())


@BOTH
@settings(max_examples=30)
@given(SEEDS, st.integers(2, 12))
def test_permuted_terms_have_permuted_weights(method: Method, seed: int, count: int) -> None:
    matrix = jacobian(seed, count, count + 3)
    order = np.random.default_rng(seed).permutation(count)
    found = weights_of(method(), matrix[order])
    np.testing.assert_allclose(found, weights_of(method(), matrix)[order], rtol=1e-8, atol=1e-12)


@BOTH
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(method: Method, kind: str) -> None:
    matrix = DEGENERATE[kind]
    weights = weights_of(method(), matrix)
    assert np.isfinite(weights).all() and (weights >= 1 / len(matrix) - 1e-15).all()
    assert conflict(matrix, weights) <= 3e-14
    dead = ~matrix.any(1)
    assert (weights[dead] == 1 / len(matrix)).all()


@BOTH
def test_without_conflict_it_is_the_preference(method: Method) -> None:
    matrix = np.abs(jacobian(3, 5, 8))
    np.testing.assert_allclose(weights_of(method(), matrix), 0.2, rtol=1e-15)
    preference = {"4": 0.0, "0": 2.0, "1": 0.5, "2": 1.0, "3": 7.0}
    weights = weights_of(method(preference=preference), matrix)
    assert weights.tolist() == [2.0, 0.5, 1.0, 7.0, 0.0]


@BOTH
def test_a_training_step(method: Method) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    terms = {"a": (x[0] - x[1]).square(), "b": x[1] - x[0], "warm-up": torch.tensor(0.0)}
    step = method().backward(terms, [x])
    rows = np.array([[-2.0, 2.0], [-1, 1], [0, 0]])
    np.testing.assert_allclose(x.grad, step.weights.numpy() @ rows, rtol=1e-6)
    assert step.weights.tolist() == pytest.approx([1 / 3] * 3)


@BOTH
@pytest.mark.parametrize(
    ("preference", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "`preference` must be a mapping"),
        ({"a": -1.0, "b": 1.0}, ValueError, "`preference\\['a'\\]` must be .* at least 0"),
        ({"a": 0.0, "b": 0.0}, ValueError, "a number above 0, got zeros alone"),
        ({"a": 1.0}, ValueError, "for each of the terms \\['a', 'b'\\], got \\['a'\\]"),
    ],
)
def test_wrong_preferences(method: Method, preference, error, message) -> None:
    with pytest.raises(error, match=message):
        method(["a", "b"], preference=preference)


@BOTH
def test_a_preference_for_other_terms_shows_at_the_first_step(method: Method) -> None:
    x = torch.ones(2, requires_grad=True)
    balancer = method(preference={"a": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="each of the terms \\['a', 'b'\\], got \\['a', 'c'\\]"):
        balancer.backward({"a": x[0], "b": x[1]}, [x])


@BOTH
def test_nan_gives_nan(method: Method) -> None:
    figures = figures_of(np.array([[1.0, 2], [np.nan, 1], [1, 1]]))
    assert method().weights_of(figures).isnan().all()
