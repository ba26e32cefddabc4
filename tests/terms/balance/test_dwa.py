from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from lossproof.terms.balance.dwa import DWA


def run(balancer, values):
    weights = []
    for row in values:
        x = torch.ones(len(row), dtype=torch.float64, requires_grad=True)
        terms = {f"t{k}": x[k] * value for k, value in enumerate(row)}
        weights.append(balancer.backward(terms, [x]).weights.numpy())
    return np.array(weights)


def test_equation_7_by_epochs() -> None:
    values = np.random.default_rng(0).uniform(0.1, 5.0, (5, 4, 3))  # epochs, batches, terms
    means = values.mean(1)
    expected = np.ones_like(values)
    for epoch in range(2, 5):
        rates = means[epoch - 1] / means[epoch - 2]
        expected[epoch] = 3 * softmax(rates / 0.7)
    found = run(DWA(window=4, temperature=0.7), values.reshape(20, 3))
    np.testing.assert_allclose(found, expected.reshape(20, 3), rtol=1e-12)


def test_torchjd_has_the_same_weights() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    values = np.random.default_rng(1).uniform(0.1, 5.0, (4, 3, 2))
    peer = scalarization.DWA()
    expected = []
    for epoch in values:
        for row in epoch:
            leaf = torch.tensor(row, requires_grad=True)
            peer(leaf).backward()
            expected.append(leaf.grad.numpy())
        peer.step()
    np.testing.assert_allclose(run(DWA(window=3), values.reshape(12, 2)), expected, rtol=1e-12)


def test_a_term_that_was_zero_in_a_whole_epoch_counts_as_unchanged() -> None:
    found = run(DWA(window=1), [[0.0, 2.0], [5.0, 2.0], [5.0, 1.0], [5.0, 1.0]])
    np.testing.assert_allclose(found[2], [1.0, 1.0])
    np.testing.assert_allclose(found[3], 2 * softmax([0.5, 0.25]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "window"),
        ({"window": 0}, ValueError, "`window` must be an integer of at least 1, got 0"),
        ({"window": 1, "temperature": 0}, ValueError, "`temperature` must be a number above 0"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        DWA(**options)
