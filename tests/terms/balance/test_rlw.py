from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from lossproof.terms.balance.rlw import RLW
from lossproof.terms.gradients import TermGradients

DISTRIBUTIONS = ("normal", "uniform", "dirichlet", "bernoulli", "constrained_bernoulli")


def draws(count, k=3, **options):
    balancer = RLW(**options)
    figures = TermGradients.from_matrix(torch.zeros(k, 1))
    return np.array([balancer.weights_of(figures).numpy() for _ in range(count)])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_weights_sum_to_1_and_favour_no_term(distribution) -> None:
    weights = draws(2000, distribution=distribution)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    assert (weights >= 0).all()
    assert np.abs(weights.mean(0) - 1 / 3).max() < 4 * weights.std() / np.sqrt(2000)


def test_the_distributions_are_those_named() -> None:
    """A ratio of two weights of a softmax undoes it; a Dirichlet's part is a beta variable."""
    normal = np.diff(np.log(draws(1000, k=2)), axis=1)[:, 0]
    assert stats.kstest(normal, stats.norm(scale=np.sqrt(2)).cdf).pvalue > 1e-3
    uniform = np.diff(np.log(draws(1000, k=2, distribution="uniform")), axis=1)[:, 0]
    assert stats.kstest(uniform, stats.triang(0.5, loc=-1, scale=2).cdf).pvalue > 1e-3
    part = draws(1000, distribution="dirichlet")[:, 0]
    assert stats.kstest(part, stats.beta(1, 2).cdf).pvalue > 1e-3


def test_bernoulli_weights_are_shared_by_the_heads() -> None:
    weights = draws(1000, distribution="bernoulli")
    heads = (weights > 0).sum(1)
    assert heads.min() >= 1
    np.testing.assert_allclose(weights.max(1), 1 / heads)
    expected = np.array([3, 3, 1]) / 7 * 1000  # of the 7 patterns with a head
    assert stats.chisquare(np.bincount(heads)[1:], expected).pvalue > 1e-3
    one = draws(1000, distribution="constrained_bernoulli")
    assert set(one.ravel()) == {0.0, 1.0}


def test_seeds_make_the_draws_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = draws(3), draws(3), draws(3, seed=1)
    assert (first == again).all()
    assert (first != other).all()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"distribution": "cauchy"}, ValueError, "`distribution` must be one of 'normal'"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        ({"seed": 0.5}, TypeError, "`seed` must be an integer of at least 0"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        RLW(**options)
