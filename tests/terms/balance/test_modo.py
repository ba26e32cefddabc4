"""MoDo: the paper's step, TorchJD's numbers, and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.jacobians import DECADES, DEGENERATE, SEEDS
from tests.terms.balance.pinn import through_a_file

from lossproof.terms import TermGradients
from lossproof.terms.balance.mgda import MGDA
from lossproof.terms.balance.modo import MoDo


def figures_of(first: np.ndarray, second: np.ndarray) -> TermGradients:
    """What a step knows of the gradients of two batches."""
    count, size = first.shape
    rows = np.stack([first, second], 1).reshape(2 * count, size)
    names = [f"{term}[{sample}]" for term in range(count) for sample in range(2)]
    return TermGradients.from_matrix(torch.from_numpy(rows), names)


def names(count: int) -> list[str]:
    return [str(term) for term in range(count)]


def two_batches(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, count + 3))
    noise = 0.3 * random.standard_normal((2, count, count + 3))
    return rows + noise[0], rows + noise[1]


def nearest_in_simplex(point: np.ndarray) -> np.ndarray:
    """By the code that both the authors and SDMGrad's authors cite."""
    ordered = np.sort(point)[::-1]
    above = np.nonzero(ordered * np.arange(1, len(point) + 1) > np.cumsum(ordered) - 1)[0][-1]
    return np.maximum(point - (np.cumsum(ordered)[above] - 1) / (above + 1), 0)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 7), st.sampled_from([0.0, 0.1]), st.sampled_from([0.01, 0.1, 2.0]))
def test_the_step_of_the_paper(seed: int, count: int, rho: float, gamma: float) -> None:
    balancer = MoDo(names(count), gamma=gamma, rho=rho)
    share = np.full(count, 1 / count)
    for step in range(4):
        first, second = two_batches(seed + step, count)
        found = balancer.weights_of(figures_of(first, second)).numpy()
        share = nearest_in_simplex(share - gamma * (first @ (second.T @ share) + rho * share))
        np.testing.assert_allclose(found, np.repeat(share, 2) / 2, atol=1e-12)


@pytest.mark.parametrize("count", [2, 5])
def test_beside_torchjd(count: int) -> None:
    weighting = pytest.importorskip("torchjd.aggregation").MoDoWeighting(gamma=0.1, rho=0.1)
    balancer = MoDo(names(count), gamma=0.1, rho=0.1)
    for seed in range(5):
        first, second = two_batches(seed, count)
        theirs = weighting(torch.from_numpy(first @ second.T))
        found = balancer.weights_of(figures_of(first, second)).reshape(count, 2).sum(1)
        torch.testing.assert_close(found, theirs)


def test_it_goes_to_the_weights_of_mgda() -> None:
    rows, _ = two_batches(3, 4)
    balancer = MoDo(names(4), gamma=0.05, rho=0.0)
    for _ in range(400):
        found = balancer.weights_of(figures_of(rows, rows)).reshape(4, 2).sum(1)
    wanted = MGDA().weights_of(TermGradients.from_matrix(torch.from_numpy(rows)))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 7), DECADES)
def test_normalized_products_have_no_scale(seed: int, count: int, decade: int) -> None:
    first, second = two_batches(seed, count)
    one, other = (MoDo(names(count), normalize=True) for _ in range(2))
    for _ in range(3):
        wanted = one.weights_of(figures_of(first, second))
        found = other.weights_of(figures_of(first * 10.0**decade, second * 10.0**decade))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 7), DECADES)
def test_the_papers_are_finite_at_any_scale(seed: int, count: int, decade: int) -> None:
    first, second = two_batches(seed, count)
    balancer = MoDo(names(count))
    weights = balancer.weights_of(figures_of(first * 10.0**decade, second * 10.0**decade))
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)


@settings(max_examples=20)
@given(SEEDS, st.integers(2, 7))
def test_permuted_terms_have_permuted_weights(seed: int, count: int) -> None:
    first, second = two_batches(seed, count)
    order = np.random.default_rng(seed).permutation(count)
    one, other = MoDo(names(count)), MoDo(names(count))
    for _ in range(2):
        wanted = one.weights_of(figures_of(first, second)).reshape(count, 2)[order]
        found = other.weights_of(figures_of(first[order], second[order])).reshape(count, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str, normalize: bool) -> None:
    matrix = DEGENERATE[kind]
    balancer = MoDo(names(len(matrix)), normalize=normalize)
    for second in (matrix, -matrix):
        weights = balancer.weights_of(figures_of(matrix, second))
        assert (weights >= 0).all() and weights.sum() == pytest.approx(1)


def test_resumes_bit_equal() -> None:
    balancer = MoDo(names(3))
    batches = [two_batches(seed, 3) for seed in range(6)]
    for batch in batches[:3]:
        balancer.weights_of(figures_of(*batch))
    resumed = through_a_file(balancer, MoDo())
    assert resumed.names == balancer.names
    for batch in batches[3:]:
        wanted = balancer.weights_of(figures_of(*batch))
        assert torch.equal(resumed.weights_of(figures_of(*batch)), wanted)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gamma": 0}, ValueError, "`gamma` must be a number above 0"),
        ({"rho": -1.0}, ValueError, "`rho` must be a number of at least 0"),
        ({"normalize": 1}, TypeError, "`normalize` must be True or False"),
        ({"gamma": "1"}, TypeError, "`gamma` must be a number"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        MoDo(**options)
