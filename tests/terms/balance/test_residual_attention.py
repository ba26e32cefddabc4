"""Residual-based attention against its authors' code."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import (
    gradients_of,
    residuals,
    small_network,
    through_a_file,
    trained,
)

from lossproof.terms.balance.annealing import LearningRateAnnealing
from lossproof.terms.balance.residual_attention import ResidualAttention

POINTS = {"pde": 7, "data": 2}


def authors_step(rsum, r, eta, gamma):
    """Word for word what the released PyTorch code does."""
    r_norm = eta * torch.abs(r) / torch.max(torch.abs(r))
    rsum = (rsum * gamma + r_norm).detach()
    return rsum, torch.mean((rsum * r) ** 2)


def test_the_authors_code_step_by_step():
    network = small_network()
    attention = ResidualAttention(POINTS)
    rsum = {"pde": 0.0, "data": 0.0}
    for step in range(5):
        given = residuals(network, step)
        terms = attention(given)
        for name in POINTS:
            rsum[name], loss = authors_step(rsum[name], given[name], 0.001, 0.999)
            torch.testing.assert_close(terms[name], loss)
            params = list(network.parameters())
            for a, b in zip(gradients_of(terms[name], params), gradients_of(loss, params),
                            strict=True):  # fmt: skip
                torch.testing.assert_close(a, b)
        torch.testing.assert_close(terms["bc"], given["bc"].square().mean())
    torch.testing.assert_close(attention.attention, torch.cat([rsum["pde"], rsum["data"]]))


def test_backward_fills_the_gradient_of_the_sum():
    network = small_network()
    balancer = ResidualAttention(POINTS, initial=1.0)
    expected = sum(ResidualAttention(POINTS, initial=1.0)(residuals(network)).values())
    params = list(network.parameters())
    wanted = gradients_of(expected, params)
    step = balancer.backward(residuals(network), network)
    torch.testing.assert_close(step.total, expected.detach())
    assert step.names == ("pde", "bc", "data")
    assert step.weights.tolist() == [1.0] * 3
    for p, g in zip(params, wanted, strict=True):
        torch.testing.assert_close(torch.zeros_like(p) if p.grad is None else p.grad, g)


def test_before_another_balancer():
    network = small_network()
    attention, balancer = ResidualAttention(POINTS, initial=1.0), LearningRateAnnealing()
    for step in range(3):
        balancer.backward(attention(residuals(network, step)), network)
    assert torch.isfinite(balancer.weights).all()
    assert (balancer.weights[1:] != 1).all()


@given(
    scale=st.integers(-15, 15),
    values=st.lists(st.floats(-10, 10), min_size=3, max_size=3),
    steps=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_weights_are_bounded_and_the_scale_does_not_matter(scale, values, steps):
    r = torch.tensor(values, dtype=torch.float64)
    plain, scaled = (ResidualAttention({"a": 3}, eta=0.1, gamma=0.8) for _ in range(2))
    for _ in range(steps):
        plain({"a": r})
        scaled({"a": r * 10.0**scale})
    assert (plain.attention <= 0.1 / 0.2 + 1e-12).all()
    torch.testing.assert_close(plain.attention, scaled.attention)


def test_a_sample_of_the_points():
    """Only the points of the sample move, and by what they would move in the whole."""
    r = torch.tensor([4.0, -2.0, 1.0, 3.0], dtype=torch.float64)
    whole, sampled = (ResidualAttention({"a": 4, "b": 2}, eta=0.1, gamma=0.9) for _ in range(2))
    whole({"a": r, "b": r[:2]})
    index = torch.tensor([2, 0])
    terms = sampled({"a": r[index], "b": None}, index={"a": index})
    torch.testing.assert_close(sampled.attention[index], whole.attention[index])
    assert sampled.attention[[1, 3, 4, 5]].tolist() == [0.0] * 4
    assert terms["b"] is None
    torch.testing.assert_close(
        terms["a"], (sampled.attention[index] * r[index]).square().mean()
    )  # fmt: skip


def test_a_tensor_is_index_enough_for_one_term():
    attention = ResidualAttention({"a": 4})
    attention({"a": torch.ones(2)}, index=torch.tensor([3, 1]))
    assert attention.attention.tolist() == [0.0, 0.001, 0.0, 0.001]


def test_several_equations_at_a_point():
    r = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    attention = ResidualAttention({"a": 2}, eta=1.0, gamma=0.5)
    term = attention({"a": r})["a"]
    assert attention.attention.tolist() == [1.0, 0.2]
    torch.testing.assert_close(term, torch.tensor((9 + 16 + 0.04) / 4))


def test_the_state_stays_in_evaluation_mode_when_held_and_when_a_step_fails():
    network = small_network()
    attention = ResidualAttention(POINTS)
    attention(residuals(network))
    before = attention.attention.clone()
    attention.eval()(residuals(network, 1))
    attention.train()
    with attention.held():
        attention(residuals(network, 1))
    attention.backward(residuals(network, 1), network, refresh=False)
    broken = residuals(network, 1)
    broken["pde"] = broken["pde"] * torch.nan
    with pytest.raises(FloatingPointError, match="'pde'"):
        attention.backward(broken, network)
    assert torch.equal(attention.attention, before)
    attention.backward(residuals(network, 1), network)
    assert not torch.equal(attention.attention, before)


def test_a_zero_or_infinite_residual_leaves_finite_weights():
    attention = ResidualAttention({"a": 3}, eta=0.5, gamma=0.5)
    assert attention({"a": torch.zeros(3)})["a"] == 0
    attention({"a": torch.tensor([torch.inf, 2.0, torch.nan])})
    assert attention.attention.tolist() == [0.0, 0.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_residuals(dtype):
    r = torch.tensor([300.0, -1.0, 0.5], dtype=dtype, requires_grad=True)
    balancer = ResidualAttention({"a": 3}, initial=1.0)
    step = balancer.backward({"a": r}, [r])
    assert step.total.item() == pytest.approx(30000, rel=0.01)
    assert r.grad.dtype == dtype


def test_resume_is_bit_equal():
    network = small_network()
    whole = ResidualAttention(POINTS)
    trained(whole, network, 3, points=True)
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, ResidualAttention(POINTS))
    for balancer, net in ((whole, network), (resumed, copy)):
        trained(balancer, net, 3, 3, points=True)
    assert torch.equal(whole.attention, resumed.attention)
    assert torch.equal(network[0].weight, copy[0].weight)


def test_a_checkpoint_of_other_points_is_refused():
    file = io.BytesIO()
    torch.save(ResidualAttention({"a": 2, "b": 3}).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    with pytest.raises(ValueError, match="the checkpoint is of the points"):
        ResidualAttention({"b": 3, "a": 2}).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (({},), ValueError, "`points` must hold the number of points of a term, got none"),
        ((["a"],), TypeError, "`points` must be a mapping"),
        (({"a": 0},), ValueError, r"`points\['a'\]` must be an integer of at least 1, got 0"),
        (({1: 3},), TypeError, "the names in `points` must be strings, got 1"),
    ],
)
def test_wrong_points(arguments, error, words):
    with pytest.raises(error, match=words):
        ResidualAttention(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"eta": 0.0}, "`eta`"), ({"gamma": 1.0}, "`gamma`"), ({"initial": -1.0}, "`initial`")],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        ResidualAttention({"a": 3}, **options)


@pytest.mark.parametrize(
    ("given", "index", "error", "words"),
    [
        (torch.ones(2), None, ValueError, "term 'a' must have a residual for each of its 3 points"),
        (torch.ones(()), None, ValueError, "term 'a' must be the residual at every point"),
        ([1.0], None, TypeError, "must be a floating-point tensor, got list"),
        (torch.ones(2), torch.ones(2), TypeError, "must be a tensor of integers"),
        (torch.ones(2), torch.tensor([0]), ValueError, "one integer for each of the 2 residuals"),
        (torch.ones(2), torch.tensor([0, 3]), ValueError, "numbers from 0 to 2, got 3"),
        (torch.ones(2), torch.tensor([-1, 0]), ValueError, "numbers from 0 to 2, got -1"),
        (torch.ones(3), {"b": torch.tensor([0])}, ValueError, "`index` must be for the terms"),
    ],
)
def test_wrong_residuals(given, index, error, words):
    with pytest.raises(error, match=words):
        ResidualAttention({"a": 3})({"a": given}, index=index)


def test_a_term_with_points_that_is_not_given():
    with pytest.raises(ValueError, match=r"`points` must name terms of \['pde'\], got \['pdee'\]"):
        ResidualAttention({"pdee": 3})({"pde": torch.ones(3)})
    with pytest.raises(TypeError, match="`residuals` must be a mapping"):
        ResidualAttention({"pde": 3})(torch.ones(3))
    with pytest.raises(TypeError, match="`index` must be a mapping from the terms"):
        ResidualAttention(POINTS)(
            {"pde": torch.ones(2), "data": torch.ones(2)}, index=torch.tensor([0, 1])
        )
