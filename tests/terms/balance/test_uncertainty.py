from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lossproof.terms.balance.uncertainty import UncertaintyWeights


def backward(balancer, values):
    x = torch.ones(len(values), dtype=torch.float64, requires_grad=True)
    names = balancer.names
    step = balancer.backward({n: x[k] * values[k] for k, n in enumerate(names)}, [x])
    return step, x.grad


def test_the_regression_form_is_a_gaussian_likelihood() -> None:
    """-log N(y; f, sigma^2) is the term (y - f)^2 in this form, up to log sqrt(2 pi)."""
    balancer = UncertaintyWeights(["a"])
    with torch.no_grad():
        balancer.log_variance.fill_(0.7)
    residual = 1.3
    step, _ = backward(balancer, [residual**2])
    normal = torch.distributions.Normal(0.0, math.exp(0.35))
    expected = -normal.log_prob(torch.tensor(residual)).item() - 0.5 * math.log(2 * math.pi)
    assert step.total.item() == pytest.approx(expected, rel=1e-6)


def test_the_classification_form_is_equation_10() -> None:
    balancer = UncertaintyWeights(["a", "b"], form={"a": "classification", "b": "regression"})
    with torch.no_grad():
        balancer.log_variance.copy_(torch.tensor([0.5, -0.25]))
    step, grad = backward(balancer, [2.0, 3.0])
    s = np.array([0.5, -0.25])
    variance = np.exp(s)
    expected = 2.0 / variance[0] + 3.0 / (2 * variance[1]) + np.log(np.sqrt(variance)).sum()
    assert step.total.item() == pytest.approx(expected, rel=1e-6)
    weights = [1 / variance[0], 1 / (2 * variance[1])]
    np.testing.assert_allclose(step.weights, weights, rtol=1e-6)
    np.testing.assert_allclose(grad, np.array(weights) * [2.0, 3.0], rtol=1e-6)
    slope = [-2.0 / variance[0] + 0.5, -3.0 / (2 * variance[1]) + 0.5]
    np.testing.assert_allclose(balancer.log_variance.grad, slope, rtol=1e-5)


def test_the_penalty_of_liebel_and_koerner() -> None:
    balancer = UncertaintyWeights(["a", "b"], penalty="log1p", initial=0.4)
    step, _ = backward(balancer, [2.0, 3.0])
    variance = math.exp(0.4)
    assert step.total.item() == pytest.approx(5.0 / (2 * variance) + 2 * math.log(1 + variance))
    slope = variance / (1 + variance) - np.array([2.0, 3.0]) / (2 * variance)
    np.testing.assert_allclose(balancer.log_variance.grad, slope, rtol=1e-5)


@pytest.mark.parametrize("penalty", ["log", "log1p"])
def test_the_optimiser_finds_the_variances_of_constant_values(penalty) -> None:
    """By hand: s = log L for Kendall; e^2s = (1 + e^s) L / 2 for Liebel and Körner."""
    values = np.array([0.1, 1.0, 20.0])
    balancer = UncertaintyWeights(["a", "b", "c"], penalty=penalty)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        backward(balancer, values)
        optimizer.step()
    if penalty == "log":
        expected = np.log(values)
    else:
        half = values / 2
        expected = np.log((half + np.sqrt(half**2 + 4 * half)) / 2)
    np.testing.assert_allclose(balancer.log_variance.detach(), expected, atol=1e-3)


def test_torchjd_has_the_same_number() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    peer, ours = scalarization.UW(3), UncertaintyWeights(["a", "b", "c"])
    logs = torch.tensor([0.3, -1.0, 2.0])
    with torch.no_grad():
        peer.log_var.copy_(logs)
        ours.log_variance.copy_(logs)
    values = [0.2, 3.0, 40.0]
    total = peer(torch.tensor(values))
    total.backward()
    step, _ = backward(ours, values)
    assert step.total.item() == pytest.approx(total.item(), rel=1e-6)
    torch.testing.assert_close(ours.log_variance.grad, peer.log_var.grad)


def test_a_term_of_zero_leaves_its_variance_as_it_is() -> None:
    balancer = UncertaintyWeights(["a", "b"])
    backward(balancer, [0.0, 1.0])
    assert balancer.log_variance.grad[0] == 0.0
    assert balancer.log_variance.grad[1] == 0.0  # 1 is the optimum of 0.5 * exp(-0) * L + ...
    backward(balancer, [0.0, 3.0])
    assert balancer.log_variance.grad.tolist() == [0.0, -1.0]


def test_the_parameters_are_there_for_the_optimiser_before_the_first_step() -> None:
    (only,) = UncertaintyWeights(["a", "b"], initial=-0.5).parameters()
    assert only.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": None}, TypeError, "`names` must be the names of the terms, as UncertaintyW"),
        ({"names": "ab"}, TypeError, "`names` must be the names of the terms"),
        ({"form": "poisson"}, ValueError, "`form` must be one of 'regression', 'classification'"),
        ({"form": {"a": "regression"}}, ValueError, "`form` must say the form of each of the ter"),
        ({"form": {"a": "x", "b": "regression"}}, ValueError, r"`form\['a'\]` must be one of"),
        ({"penalty": "l2"}, ValueError, "`penalty` must be one of 'log', 'log1p', got 'l2'"),
        ({"initial": "x"}, TypeError, "`initial` must be a finite number"),
        ({"every": 0}, ValueError, "`every` must be an integer of at least 1"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        UncertaintyWeights(**{"names": ["a", "b"], **options})
