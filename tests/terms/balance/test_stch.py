from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from lossproof.terms.balance.stch import STCH

VALUES = np.random.default_rng(0).uniform(0.2, 3.0, (9, 3))


def step(balancer, row):
    x = torch.ones(len(row), dtype=torch.float64, requires_grad=True)
    terms = {f"t{k}": x[k] * value for k, value in enumerate(row)}
    done = balancer.backward(terms, [x])
    # the gradient that is filled is that of what is said to be minimised, by the weights shown
    torch.testing.assert_close(x.grad, done.weights * torch.tensor(row), rtol=1e-9, atol=1e-12)
    return done


@pytest.mark.parametrize("mu", [0.01, 1.0])
def test_the_formula_of_the_paper(mu) -> None:
    preference, ideal = np.array([0.5, 0.3, 0.2]), np.array([0.1, -1.0, 0.0])
    balancer = STCH(
        mu=mu,
        preference={f"t{k}": value for k, value in enumerate(preference)},
        ideal={f"t{k}": value for k, value in enumerate(ideal)},
    )
    for row in VALUES:
        scaled = preference * (row - ideal) / mu
        done = step(balancer, row)
        assert done.total.item() == pytest.approx(mu * logsumexp(scaled), rel=1e-10)
        np.testing.assert_allclose(done.weights, preference * softmax(scaled), rtol=1e-9)


def test_a_small_mu_is_the_maximum() -> None:
    done = step(STCH(mu=1e-6), [1.0, 5.0, 2.0])
    assert done.total.item() == pytest.approx(5.0 / 3)
    np.testing.assert_allclose(done.weights, [0.0, 1 / 3, 0.0], atol=1e-12)


def test_the_warm_up_of_the_experiments() -> None:
    """Written out from the authors' multi-task code: logarithms, the nadir, the smooth maximum."""
    mu, warmup, window = 0.3, 5, 2
    balancer = STCH(mu=mu, warmup=warmup, nadir_window=window)
    nadir = VALUES[warmup - window : warmup].mean(0)
    for t, row in enumerate(VALUES):
        leaf = torch.tensor(row, requires_grad=True)
        if t < warmup:
            expected = leaf.log().sum()
        else:
            logs = (leaf / torch.tensor(nadir)).log()
            top = logs.max().detach()
            expected = mu * ((logs - top) / mu).exp().sum().log() * 3
        expected.backward()
        done = step(balancer, row)
        torch.testing.assert_close(done.weights, leaf.grad, rtol=1e-9, atol=1e-12)
        if t < warmup:
            assert done.total.item() == pytest.approx(expected.item())
        else:  # the authors leave out the largest logarithm, whose gradient they cut
            whole = 3 * mu * logsumexp(np.log(row / nadir) / mu)
            assert done.total.item() == pytest.approx(whole)


def test_torchjd_has_the_same_number() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    preference, ideal = [0.5, 0.3, 0.2], [0.1, -1.0, 0.0]
    peer = scalarization.STCH(0.2, torch.tensor(preference).double(), torch.tensor(ideal).double())
    leaf = torch.tensor(VALUES[0], requires_grad=True)
    expected = peer(leaf)
    expected.backward()
    done = step(
        STCH(
            mu=0.2,
            preference=dict(zip(("t0", "t1", "t2"), preference, strict=True)),
            ideal=dict(zip(("t0", "t1", "t2"), ideal, strict=True)),
        ),
        VALUES[0],
    )
    torch.testing.assert_close(done.total, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(done.weights, leaf.grad, rtol=1e-6, atol=0)


def test_after_a_warm_up_units_do_not_matter() -> None:
    plain, other = STCH(warmup=3, mu=0.1), STCH(warmup=3, mu=0.1)
    units = np.array([1e-18, 1.0, 1e18])
    for row in VALUES:
        one, two = step(plain, row), step(other, row * units)
        ours, theirs = one.weights.numpy() * row, two.weights.numpy() * row * units
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def test_a_term_on_its_ideal_gets_no_weight() -> None:
    balancer = STCH(warmup=1)
    step(balancer, [0.0, 1.0])
    done = step(balancer, [0.0, 2.0])
    assert done.weights.tolist() == pytest.approx([0.0, 1.0])
    assert step(balancer, [1.0, 1.0]).weights.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mu": 0.0}, ValueError, "`mu` must be a number above 0"),
        ({"warmup": -1}, ValueError, "`warmup` must be an integer of at least 0"),
        ({"warmup": 3, "nadir_window": 4}, ValueError, "`nadir_window` must be at most `warmup`=3"),
        ({"nadir_window": 1}, ValueError, "`nadir_window` must be at most `warmup`=0"),
        ({"preference": {"a": -1.0}}, ValueError, r"`preference\['a'\]` must be a number of at le"),
        ({"preference": {"a": 1.0}, "warmup": 2}, ValueError, "`preference` goes with warmup=0"),
        ({"ideal": [0.0]}, TypeError, "`ideal` must be a mapping"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        STCH(**options)


def test_a_value_below_the_ideal_is_refused_where_its_logarithm_is_taken() -> None:
    balancer = STCH(warmup=2, ideal={"t0": 1.0, "t1": 0.0})
    with pytest.raises(ValueError, match="at least `ideal`, but that of term 't0' is -0.5 below"):
        step(balancer, [0.5, 1.0])
