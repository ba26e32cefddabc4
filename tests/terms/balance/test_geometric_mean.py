from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import gmean

from lossproof.terms.balance.geometric_mean import GeometricMean


def step(values):
    x = torch.ones(len(values), dtype=torch.float64, requires_grad=True)
    terms = {f"t{k}": x[k] * value for k, value in enumerate(values)}
    return GeometricMean().backward(terms, [x]), x.grad


@pytest.mark.parametrize("values", [[3.0], [0.1, 4.0, 70.0], [1e-30, 1e30, 2.0], [2.5] * 40])
def test_the_mean_and_its_gradient(values) -> None:
    done, grad = step(values)
    assert done.total.item() == pytest.approx(gmean(values), rel=1e-10)
    # d gmean(x * v) / d x_k at x = 1 is gmean(v) / K, whatever the term
    np.testing.assert_allclose(grad, gmean(values) / len(values), rtol=1e-10)
    np.testing.assert_allclose(done.weights, gmean(values) / len(values) / np.array(values))


def test_torchjd_has_the_same_number() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    values = torch.tensor([0.2, 3.0, 40.0], dtype=torch.float64, requires_grad=True)
    expected = scalarization.GeometricMean()(values)
    expected.backward()
    done, _ = step(values.tolist())
    torch.testing.assert_close(done.total, expected.detach())
    torch.testing.assert_close(done.weights, values.grad)


def test_a_term_of_zero_is_left_out() -> None:
    done, grad = step([4.0, 0.0, 9.0])
    assert done.total.item() == pytest.approx(6.0)
    assert done.weights[1] == 0.0
    assert grad.isfinite().all()
    np.testing.assert_allclose(done.weights[[0, 2]], step([4.0, 9.0])[0].weights)
