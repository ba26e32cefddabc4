from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from lossproof.terms.balance.relobralo import ReLoBRaLo


def run(balancer, values):
    weights = []
    for row in values:
        x = torch.ones(len(row), dtype=torch.float64, requires_grad=True)
        terms = {f"t{k}": x[k] * value for k, value in enumerate(row)}
        weights.append(balancer.backward(terms, [x]).weights.numpy())
    return np.array(weights)


def by_the_paper(values, alpha, temperature, rhos):
    """The formula with the given lookbacks; alpha is 1 in the first step and 0 in the second."""
    kept, found = np.ones(values.shape[1]), []
    for t, row in enumerate(values):
        if t > 0:
            a = 0.0 if t == 1 else alpha
            to_last = len(row) * softmax(row / (temperature * values[t - 1]))
            to_first = len(row) * softmax(row / (temperature * values[0]))
            kept = rhos[t] * a * kept + (1 - rhos[t]) * a * to_first + (1 - a) * to_last
        found.append(kept)
    return np.array(found)


VALUES = np.random.default_rng(0).uniform(0.2, 3.0, (12, 3))


@pytest.mark.parametrize("rho", [0, 1])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_formula_without_chance(rho, temperature) -> None:
    expected = by_the_paper(VALUES, 0.9, temperature, np.full(12, rho))
    found = run(ReLoBRaLo(alpha=0.9, temperature=temperature, rho=rho), VALUES)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(found.sum(1), 3.0)


def test_the_lookback_is_drawn_anew_in_each_step_with_its_probability() -> None:
    values = np.tile(VALUES, (50, 1))
    found = run(ReLoBRaLo(alpha=0.9, rho=0.7, seed=3), values)
    kept, chosen = found[1], []
    for t in range(2, len(values)):
        to_last = 3 * softmax(values[t] / values[t - 1])
        to_first = 3 * softmax(values[t] / values[0])
        held = 0.9 * kept + 0.1 * to_last
        back = 0.9 * to_first + 0.1 * to_last
        chosen.append(np.allclose(found[t], held, rtol=1e-9))
        assert chosen[-1] or np.allclose(found[t], back, rtol=1e-9)
        kept = found[t]
    assert abs(np.mean(chosen) - 0.7) < 4 * np.sqrt(0.21 / len(chosen))


def test_a_term_that_was_zero_counts_as_unchanged() -> None:
    found = run(ReLoBRaLo(alpha=0.0), [[0.0, 1.0], [3.0, 2.0], [3.0, 1.0]])
    np.testing.assert_allclose(found[1], 2 * softmax([1.0, 2.0]))
    np.testing.assert_allclose(found[2], 2 * softmax([1.0, 0.5]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 1.1}, ValueError, "`alpha` must be a number of at least 0 and of at most 1"),
        ({"rho": -0.1}, ValueError, "`rho` must be a number of at least 0 and of at most 1"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be a number above 0"),
        ({"seed": "x"}, TypeError, "`seed` must be an integer"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        ReLoBRaLo(**options)
