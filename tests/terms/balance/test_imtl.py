from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.terms.balance.imtl import IMTL, IMTLG, IMTLL, impartial_weights
from lossproof.terms.gradients import TermGradients


def matrix(seed, k=3, p=8):
    return np.random.default_rng(seed).normal(size=(k, p))


def weights_of(rows):
    matrix = rows if isinstance(rows, torch.Tensor) else torch.tensor(np.asarray(rows))
    figures = TermGradients.from_matrix(matrix)
    return IMTLG().weights_of(figures).numpy()


def closed_form(grads):
    """The paper's own: alpha = g_1 U^T (D U^T)^-1, and the first weight is the rest to 1."""
    unit = grads / np.linalg.norm(grads, axis=1, keepdims=True)
    differences, units = grads[:1] - grads[1:], unit[:1] - unit[1:]
    alpha = grads[0] @ units.T @ np.linalg.inv(differences @ units.T)
    return np.concatenate([[1 - alpha.sum()], alpha])


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_of_the_paper(k, seed) -> None:
    grads = matrix(seed, k, 12) * np.geomspace(1e-3, 1e3, k)[:, None]
    expected = closed_form(grads)
    weights = weights_of(grads)
    np.testing.assert_allclose(weights * np.sign(weights.sum()), expected, rtol=1e-6)
    projections = (weights @ grads) @ grads.T / np.linalg.norm(grads, axis=1)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-6)
    assert projections[0] > 0


def test_by_hand() -> None:
    np.testing.assert_allclose(weights_of(np.diag([1.0, 2.0, 4.0])), np.array([4, 2, 1]) / 7)


def test_torchjd_has_the_same_weights() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        rows = torch.tensor(matrix(seed))
        expected = aggregation.IMTLGWeighting()(rows @ rows.T)
        torch.testing.assert_close(
            impartial_weights(rows @ rows.T), expected, rtol=1e-8, atol=1e-10
        )


def test_where_the_paper_would_ascend_every_term_the_sign_is_turned() -> None:
    """Weights that sum to 1, as the paper has them, may point uphill for all terms at once."""
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(300):
        grads = rng.normal(size=(3, 3)) * 10 ** rng.uniform(-2, 2, (3, 1))
        weights = weights_of(grads)
        projections = (weights @ grads) @ grads.T / np.linalg.norm(grads, axis=1)
        assert (projections > 0).all()
        seen += weights.sum() < 0
        np.testing.assert_allclose(weights * np.sign(weights.sum()), closed_form(grads), rtol=1e-4)
    assert seen > 0


@given(exponent=st.floats(-20, 20), seed=st.integers(0, 99), k=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_scale_and_order(exponent, seed, k) -> None:
    grads = matrix(seed, k)
    plain = weights_of(grads)
    np.testing.assert_allclose(weights_of(grads * 10.0**exponent), plain, rtol=1e-6, atol=1e-9)
    order = np.random.default_rng(seed).permutation(k)
    np.testing.assert_allclose(weights_of(grads[order]), plain[order], rtol=1e-6, atol=1e-9)


@given(exponents=st.lists(st.floats(-9, 9), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_the_direction_does_not_depend_on_the_units_of_the_terms(exponents) -> None:
    grads = matrix(3)
    moved = grads * 10 ** np.array(exponents)[:, None]
    one, two = weights_of(grads) @ grads, weights_of(moved) @ moved
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    assert cosine == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_gradients(dtype) -> None:
    rows = torch.tensor(matrix(1, 4, 1000)).to(dtype)
    weights = weights_of(rows)
    exact = rows.double().numpy()
    shares = (weights @ exact) @ exact.T / np.linalg.norm(exact, axis=1)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-3)


def test_degenerate_gradients() -> None:
    row = np.array([1.0, 2.0, -1.0])
    zero = np.zeros(3)
    np.testing.assert_allclose(weights_of([row]), [1.0])
    np.testing.assert_allclose(weights_of([row, zero, row * 4]), [0.8, 0.0, 0.2])
    np.testing.assert_allclose(weights_of([row] * 32), np.full(32, 1 / 32))
    np.testing.assert_allclose(weights_of([zero, zero]), [0.5, 0.5])
    np.testing.assert_allclose(weights_of([row, -3 * row]), [0.75, 0.25])
    other = np.array([0.0, 1.0, 1.0])
    twice = weights_of([row, other, other])
    shares = (twice @ np.array([row, other, other])) @ np.array([row, other]).T
    np.testing.assert_allclose(shares[0] / np.linalg.norm(row), shares[1] / np.linalg.norm(other))
    assert twice[1] == pytest.approx(twice[2])


def backward(balancer, grads, offsets):
    """One step where the terms have these gradients and these values."""
    x = torch.zeros(grads.shape[1], dtype=torch.float64, requires_grad=True)
    rows = torch.tensor(grads)
    terms = {f"t{k}": rows[k] @ x + offsets[k] for k in range(len(rows))}
    return balancer.backward(terms, [x]), x.grad


NAMES = ["t0", "t1", "t2"]
OFFSETS = [0.5, 2.0, 10.0]


def test_both_balances_together() -> None:
    """By the paper: the scaled terms' gradients get equal shares, and the scales descend."""
    balancer, grads = IMTL(NAMES), matrix(0)
    logs = np.array([0.5, -1.0, 0.25])
    with torch.no_grad():
        balancer.log_scale.copy_(torch.tensor(logs))
    step, grad = backward(balancer, grads, OFFSETS)
    scaled = np.exp(logs)[:, None] * grads
    expected = np.exp(logs) * closed_form(scaled)
    np.testing.assert_allclose(step.weights, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected @ grads, rtol=1e-6)
    slope = np.exp(logs) * OFFSETS - 1
    np.testing.assert_allclose(balancer.log_scale.grad, slope, rtol=1e-6)


def test_the_scales_learn_in_every_step_also_between_refreshes() -> None:
    balancer, grads = IMTL(NAMES, every=4), matrix(0)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.05)
    for t in range(600):
        optimizer.zero_grad()
        step, _ = backward(balancer, grads, OFFSETS)
        assert step.refreshed == (t % 4 == 0)
        optimizer.step()
    np.testing.assert_allclose(balancer.log_scale.detach().exp() * torch.tensor(OFFSETS), 1.0,
                               rtol=1e-3)  # fmt: skip


def test_the_loss_balance_alone() -> None:
    balancer, grads = IMTLL(NAMES), matrix(0)
    with torch.no_grad():
        balancer.log_scale.copy_(torch.tensor([0.5, -1.0, 0.25]))
    step, grad = backward(balancer, grads, OFFSETS)
    scale = np.exp([0.5, -1.0, 0.25])
    assert step.total.item() == pytest.approx((scale * OFFSETS).sum() - (0.5 - 1.0 + 0.25))
    np.testing.assert_allclose(grad, scale @ grads, rtol=1e-6)
    np.testing.assert_allclose(balancer.log_scale.grad, scale * OFFSETS - 1, rtol=1e-6)


def test_torchjd_has_the_same_loss_balance() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    peer, ours = scalarization.IMTLL(3), IMTLL(NAMES)
    logs = torch.tensor([0.3, -1.0, 2.0])
    with torch.no_grad():
        peer.log_scale.copy_(logs)
        ours.log_scale.copy_(logs)
    expected = peer(torch.tensor(OFFSETS))
    expected.backward()
    step, _ = backward(ours, matrix(0), OFFSETS)
    assert step.total.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours.log_scale.grad, peer.log_scale.grad)


@pytest.mark.parametrize("method", [IMTL, IMTLL])
def test_a_term_of_zero_leaves_its_scale_and_a_negative_one_is_refused(method) -> None:
    balancer = method(NAMES)
    backward(balancer, matrix(0), [0.0, 2.0, 3.0])
    assert balancer.log_scale.grad.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="needs values of at least 0, but that of term 't1' is -1"):
        backward(balancer, matrix(0), [1.0, -1.0, 1.0])


def test_names_are_needed_where_there_are_parameters() -> None:
    for method in (IMTL, IMTLL):
        with pytest.raises(TypeError, match="`names` must be the names of the terms, as IMTL"):
            method(None)
