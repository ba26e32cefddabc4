from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from lossproof.terms.balance.soft_adapt import VARIANTS, SoftAdapt, backward_difference


def run(balancer, values):
    weights = []
    for row in values:
        x = torch.ones(len(row), dtype=torch.float64, requires_grad=True)
        terms = {f"t{k}": x[k] * value for k, value in enumerate(row)}
        weights.append(balancer.backward(terms, [x]).weights.numpy())
    return np.array(weights)


@pytest.mark.parametrize("order", range(1, 9))
def test_the_slope_is_that_of_the_polynomial_through_the_points(order) -> None:
    rng = np.random.default_rng(order)
    points = rng.normal(size=order + 1)
    polynomial = np.polynomial.Polynomial.fit(
        np.arange(-order, 1), points, order, domain=[-order, 0], window=[-order, 0]
    )
    slope = np.dot(backward_difference(order), points)
    assert slope == pytest.approx(polynomial.deriv()(0), rel=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("beta", [0.1, -2.0])
def test_the_formulas_of_the_paper(variant, order, beta) -> None:
    values = np.random.default_rng(0).uniform(0.1, 5.0, (7, 3))
    expected = []
    for t in range(7):
        if t < order:
            expected.append(np.full(3, 1 / 3))
            continue
        points = values[t - order : t + 1]
        slopes = np.array(backward_difference(order)) @ points
        if variant.startswith("normalized"):
            slopes = slopes / np.abs(slopes).sum()
        if variant.endswith("loss_weighted"):
            raw = points.mean(0) * np.exp(beta * slopes)
        else:
            raw = np.exp(beta * slopes)
        expected.append(raw / raw.sum())
    found = run(SoftAdapt(variant=variant, order=order, beta=beta), values)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_by_hand() -> None:
    """Slopes -1, +2: with beta 1 the weights are 1 : e^3."""
    found = run(SoftAdapt(beta=1.0), [[3.0, 1.0], [2.0, 3.0]])[1]
    np.testing.assert_allclose(found, softmax([-1.0, 2.0]))


def test_the_worst_performer_gets_the_most_also_where_all_terms_fall() -> None:
    """The authors' package divides by the signed sum, which turns this round."""
    falling = [[9.0, 9.0], [8.0, 5.0]]
    slow, fast = run(SoftAdapt(beta=2.0, variant="normalized"), falling)[1]
    assert slow > fast
    np.testing.assert_allclose([slow, fast], softmax([2 * -1 / 5, 2 * -4 / 5]))


def test_terms_that_stand_still_or_are_all_zero_are_equal() -> None:
    for variant in VARIANTS:
        still = run(SoftAdapt(variant=variant, beta=5.0), [[2.0, 2.0]] * 3)
        np.testing.assert_allclose(still, 0.5)
        np.testing.assert_allclose(run(SoftAdapt(variant=variant), [[0.0, 0.0]] * 3), 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variant": "new"}, ValueError, "`variant` must be one of 'original'"),
        ({"beta": float("inf")}, ValueError, "`beta` must be a finite number"),
        ({"order": 0}, ValueError, "`order` must be an integer of at least 1"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        SoftAdapt(**options)
