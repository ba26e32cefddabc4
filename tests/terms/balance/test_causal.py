"""Causal weights against the authors' JAX code, written with numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import gradients_of, residuals, small_network, through_a_file

from lossproof.terms.balance.causal import CausalWeighting


def authors_weights(chunk_losses, tol, initial=0.0):
    """M is strictly lower triangular; W = exp(-tol * (M @ L_t + L_0))."""
    count = len(chunk_losses)
    m = np.triu(np.ones((count, count)), k=1).T
    return np.exp(-tol * (m @ chunk_losses + initial))


def jaxpi_loss(r, t, chunks, tol):
    r = r[np.argsort(t, kind="stable")].reshape(chunks, -1)
    losses = np.mean(r**2, axis=1)
    return np.mean(losses * authors_weights(losses, tol))


@given(
    seed=st.integers(0, 1000),
    chunks=st.sampled_from([1, 2, 4, 12]),
    tol=st.sampled_from([1e-2, 1.0, 1e2]),
)
@settings(max_examples=40, deadline=None)
def test_jaxpi(seed, chunks, tol):
    rng = np.random.default_rng(seed)
    r, t = rng.normal(size=24), rng.uniform(size=24)
    causal = CausalWeighting("pde", chunks=chunks, eps=tol)
    got = causal({"pde": torch.tensor(r)}, time=torch.tensor(t))["pde"]
    assert got.item() == pytest.approx(jaxpi_loss(r, t, chunks, tol), rel=1e-12)


def test_the_initial_condition_is_in_every_sum():
    """As in the authors' code for Kuramoto-Sivashinsky: L_0 = 1e3 * loss_ics."""
    network = small_network()
    r = residuals(network)
    causal = CausalWeighting("pde", chunks=7, eps=1e-3, initial="bc", initial_weight=1e3)
    terms = causal(r)
    initial = 1e3 * r["bc"].square().mean().item()
    weights = authors_weights(r["pde"].detach().numpy() ** 2, 1e-3, initial)
    np.testing.assert_allclose(causal.last["pde"].numpy(), weights, rtol=1e-12)
    expected = (torch.tensor(weights) * r["pde"].square()).mean()
    torch.testing.assert_close(terms["pde"], expected)
    torch.testing.assert_close(terms["bc"], r["bc"].square().mean())
    assert list(terms) == ["pde", "bc", "data"]


def test_the_weights_are_no_part_of_the_graph():
    network = small_network()
    params = list(network.parameters())
    causal = CausalWeighting("pde", chunks=7, eps=1.0)
    term = causal(residuals(network))["pde"]
    fixed = (causal.last["pde"] * residuals(network)["pde"].square()).mean()
    for a, b in zip(gradients_of(term, params), gradients_of(fixed, params), strict=True):
        torch.testing.assert_close(a, b)


def test_backward():
    network = small_network()
    params = list(network.parameters())
    wanted = sum(CausalWeighting("pde", chunks=3)(residuals(network)).values())
    gradients = gradients_of(wanted, params)
    step = CausalWeighting("pde", chunks=3).backward(
        residuals(network), network, time=torch.arange(7)
    )
    torch.testing.assert_close(step.total, wanted.detach())
    for p, g in zip(params, gradients, strict=True):
        torch.testing.assert_close(torch.zeros_like(p) if p.grad is None else p.grad, g)


@given(seed=st.integers(0, 1000), eps=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_weights_fall_with_time_and_rise_as_the_past_is_solved(seed, eps):
    r = torch.randn(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    causal = CausalWeighting("pde", chunks=10, eps=eps)
    causal({"pde": r})
    weights = causal.last["pde"]
    assert weights[0] == 1
    assert (weights.diff() <= 0).all()
    causal({"pde": torch.cat([0.1 * r[:10], r[10:]])})
    assert (causal.last["pde"] >= weights).all()


def test_chunks_of_unequal_numbers_of_points():
    r = torch.arange(1.0, 8.0)
    causal = CausalWeighting("pde", chunks=3, eps=1e-3)
    got = causal({"pde": r})["pde"]
    losses = np.array([np.mean([1, 4, 9]), np.mean([16, 25]), np.mean([36, 49])])
    weights = authors_weights(losses, 1e-3)
    assert got.item() == pytest.approx(np.mean(losses * weights), rel=1e-6)


def test_several_equations_at_a_point():
    r = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    got = CausalWeighting("pde", chunks=2, eps=0.1)({"pde": r})["pde"]
    assert got.item() == pytest.approx((12.5 + np.exp(-1.25) * 2) / 2)


def test_two_causal_terms_have_times_of_their_own():
    causal = CausalWeighting(["u", "v"], chunks=2, eps=0.5)
    given = {"u": torch.tensor([1.0, 2.0]), "v": torch.tensor([3.0, 0.0, 0.0, 1.0])}
    causal(given, time={"u": torch.tensor([[1.0], [0.0]])})
    assert causal.last["u"].tolist() == pytest.approx([1, np.exp(-2)])
    assert causal.last["v"].tolist() == pytest.approx([1, np.exp(-2.25)])


def test_the_sequence_of_eps_and_the_criterion_to_stop():
    """The next eps when all weights exceed delta; finished when they do so at the last."""
    causal = CausalWeighting("pde", chunks=2, eps=(0.01, 0.1, 1.0))
    stages = []
    for size in (10.0, 0.5, 0.5, 0.2, 0.2, 0.05):
        causal({"pde": torch.full((4,), size)})
        stages.append(int(causal.stage))
        assert bool(causal.finished) is (size == 0.05)
    assert stages == [0, 1, 1, 2, 2, 2]  # smallest weights 0.37, .998, .975, .996, .961, .998


def test_a_stage_ends_after_so_many_steps_but_the_last_does_not():
    causal = CausalWeighting("pde", chunks=2, eps=(1.0, 2.0, 3.0), max_steps=3)
    stages = []
    for _ in range(8):
        causal({"pde": torch.full((4,), 10.0)})
        stages.append(int(causal.stage))
    assert stages == [0, 0, 1, 1, 1, 2, 2, 2]
    assert not causal.finished


def test_the_state_stays_in_evaluation_mode_and_without_the_term():
    causal = CausalWeighting("pde", chunks=2, eps=(1.0, 2.0))
    solved = {"pde": torch.zeros(4), "bc": torch.ones(())}
    causal.eval()(solved)
    causal.train()
    with causal.held():
        causal(solved)
    assert causal({"pde": None, "bc": torch.ones(())}) == {"pde": None, "bc": torch.ones(())}
    causal({"pde": torch.full((4,), torch.nan)})
    assert int(causal.stage) == 0
    causal(solved)
    assert int(causal.stage) == 1


def test_resume_is_bit_equal():
    options = {"chunks": 2, "eps": (0.01, 0.1, 1.0), "max_steps": 3}
    whole = CausalWeighting("pde", **options)
    network = small_network()
    for step in range(4):
        whole.backward(residuals(network, step), network)
    resumed = through_a_file(whole, CausalWeighting("pde", **options))
    for step in range(4, 9):
        a, b = whole(residuals(network, step)), resumed(residuals(network, step))
        assert torch.equal(a["pde"], b["pde"])
        assert int(whole.stage) == int(resumed.stage)
        assert int(whole.steps_in_stage) == int(resumed.steps_in_stage)


def test_large_residuals_shut_the_future_without_nan():
    causal = CausalWeighting("pde", chunks=4, eps=1e2)
    r = torch.full((8,), 1e18, requires_grad=True)
    step = causal.backward({"pde": r}, [r])
    assert torch.isfinite(step.total)
    assert r.grad[2:].tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"causal": 3}, TypeError, "`causal` must be the name of a term"),
        ({"causal": []}, ValueError, "`causal` must hold different names"),
        ({"causal": ["a", "a"]}, ValueError, "`causal` must hold different names"),
        ({"chunks": 0}, ValueError, "`chunks`"),
        ({"eps": 0.0}, ValueError, "`eps` must be a number above 0"),
        ({"eps": (1.0, 0.1)}, ValueError, "`eps` must hold increasing numbers"),
        ({"eps": ()}, ValueError, "`eps` must hold increasing numbers"),
        ({"delta": 2.0}, ValueError, "`delta`"),
        ({"max_steps": 0}, ValueError, "`max_steps`"),
        ({"initial": "pde"}, ValueError, "`initial` must be the name of a term not in `causal`"),
        ({"initial": np.ones(3)}, TypeError, "`initial` must be the name of a term or None"),
        ({"initial": 1}, TypeError, "`initial` must be the name of a term or None, got 1"),
        ({"initial_weight": -1.0}, ValueError, "`initial_weight`"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        CausalWeighting(**{"causal": "pde", **options})


@pytest.mark.parametrize(
    ("residual", "time", "words"),
    [
        (torch.ones(1), None, "term 'pde' must have a point for each of 2 chunks, got 1"),
        (torch.ones(()), None, "term 'pde' must be the residual at every point"),
        (torch.ones(3), torch.ones(2), "must hold a number for each of the 3 points"),
    ],
)
def test_wrong_residuals(residual, time, words):
    with pytest.raises(ValueError, match=words):
        CausalWeighting("pde", chunks=2)({"pde": residual}, time=time)


def test_names_that_are_no_terms():
    with pytest.raises(ValueError, match=r"`causal` must name terms of \['res'\], got \['pde'\]"):
        CausalWeighting("pde")({"res": torch.ones(40)})
    with pytest.raises(ValueError, match="`initial` must be one of the terms"):
        CausalWeighting("pde", initial="ic")({"pde": torch.ones(40)})
    with pytest.raises(TypeError, match="`time` must be a mapping from the terms"):
        CausalWeighting(["u", "v"], chunks=1)(
            {"u": torch.ones(2), "v": torch.ones(2)}, time=torch.ones(2)
        )
