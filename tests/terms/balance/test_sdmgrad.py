"""SDMGrad: the paper's algorithm, TorchJD's numbers, the problem it solves, and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.jacobians import DECADES, DEGENERATE, SEEDS
from tests.terms.balance.pinn import through_a_file
from tests.terms.balance.test_modo import figures_of, names, nearest_in_simplex, two_batches

from lossproof.terms.balance.sdmgrad import SDMGrad


def of_terms(weights: torch.Tensor) -> torch.Tensor:
    return weights.reshape(-1, 2).sum(1)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 7), st.sampled_from([0.0, 0.3, 2.0]), st.sampled_from([0.0, 0.5]))
def test_the_algorithm(seed: int, count: int, drawn: float, momentum: float) -> None:
    """Algorithm 1, and the normalization that section 6.1 mentions."""
    balancer = SDMGrad(names(count), lambda_=drawn, lr=2.0, momentum=momentum, n_iter=7, samples=2)
    share, preference = np.full(count, 1 / count), np.full(count, 1 / count)
    for step in range(3):
        first, second = two_batches(seed + step, count)
        products = first @ second.T
        products /= np.sqrt(np.maximum(products.diagonal(), 0)).mean() ** 2
        velocity = np.zeros(count)
        for _ in range(7):
            velocity = momentum * velocity + products @ (share + drawn * preference)
            share = nearest_in_simplex(share - 2.0 * velocity)
        found = of_terms(balancer.weights_of(figures_of(first, second))).numpy()
        wanted = (share + drawn * preference) / (1 + drawn)
        np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("count", [2, 5])
def test_beside_torchjd(count: int) -> None:
    """With its default options, which are ours."""
    weighting = pytest.importorskip("torchjd.aggregation").SDMGradWeighting()
    balancer = SDMGrad(names(count), samples=2)
    for seed in range(4):
        first, second = (1e3 * batch for batch in two_batches(seed, count))
        theirs = weighting(torch.from_numpy(first @ second.T))
        found = of_terms(balancer.weights_of(figures_of(first, second)))
        torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-6)


def test_the_problem_that_it_solves() -> None:
    """With small steps on one batch: the shortest of J^T (share + 0.3 preference)."""
    optimize = pytest.importorskip("scipy.optimize")
    rows, _ = two_batches(1, 4)
    preference = {"0": 1.0, "1": 0.0, "2": 0.5, "3": 0.5}
    balancer = SDMGrad(names(4), preference=preference, lr=0.2, n_iter=2000, samples=2)
    found = of_terms(balancer.weights_of(figures_of(rows, rows))).numpy()
    drawn = 0.3 * np.array(list(preference.values()))
    result = optimize.minimize(
        lambda share: np.square((share + drawn) @ rows).sum(),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda share: share.sum() - 1},
        tol=1e-14,
    )
    np.testing.assert_allclose(found, (result.x + drawn) / 1.3, atol=1e-5)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 7), DECADES)
def test_the_scale_does_not_matter(seed: int, count: int, decade: int) -> None:
    first, second = two_batches(seed, count)
    one, other = (SDMGrad(names(count), samples=2, lr=1.0) for _ in range(2))
    wanted = one.weights_of(figures_of(first, second))
    found = other.weights_of(figures_of(first * 10.0**decade, second * 10.0**decade))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@settings(max_examples=20)
@given(SEEDS, st.integers(2, 7))
def test_permuted_terms_have_permuted_weights(seed: int, count: int) -> None:
    first, second = two_batches(seed, count)
    order = np.random.default_rng(seed).permutation(count)
    one, other = (SDMGrad(names(count), samples=2, lr=1.0) for _ in range(2))
    wanted = of_terms(one.weights_of(figures_of(first, second)))[order]
    found = of_terms(other.weights_of(figures_of(first[order], second[order])))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate(kind: str) -> None:
    matrix = DEGENERATE[kind]
    balancer = SDMGrad(names(len(matrix)), samples=2)
    for second in (matrix, -matrix):
        weights = balancer.weights_of(figures_of(matrix, second))
        assert (weights >= 0).all() and weights.sum() == pytest.approx(1)


def test_resumes_bit_equal() -> None:
    balancer = SDMGrad(names(3), samples=2)
    batches = [two_batches(seed, 3) for seed in range(6)]
    for batch in batches[:3]:
        balancer.weights_of(figures_of(*batch))
    resumed = through_a_file(balancer, SDMGrad(samples=2))
    for batch in batches[3:]:
        wanted = balancer.weights_of(figures_of(*batch))
        assert torch.equal(resumed.weights_of(figures_of(*batch)), wanted)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lambda_": -0.1}, ValueError, "`lambda_` must be a number of at least 0"),
        ({"lr": 0.0}, ValueError, "`lr` must be a number above 0"),
        ({"momentum": 1.0}, ValueError, "`momentum` must be a number of at least 0 and below 1"),
        ({"n_iter": 0}, ValueError, "`n_iter` must be an integer of at least 1"),
        ({"n_iter": 2.5}, TypeError, "`n_iter` must be an integer"),
        ({"preference": [1, 2]}, TypeError, "`preference` must be a mapping"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        SDMGrad(**options)
