"""Inverse-Dirichlet weighting against its formula and its authors' code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import (
    linear_terms,
    residuals,
    small_network,
    terms_of,
    through_a_file,
    trained,
)

from lossproof.terms.balance.inverse_dirichlet import InverseDirichlet


def deviation(term, network):
    """As the authors write it: all weights and biases that there is a gradient of, side by side."""
    found = torch.autograd.grad(term, list(network.parameters()), retain_graph=True,
                                allow_unused=True)  # fmt: skip
    return torch.cat([g.flatten() for g in found if g is not None]).std(correction=0)


def test_the_paper():
    network = small_network()
    balancer = InverseDirichlet(alpha=0.3)
    expected = torch.ones(3, dtype=torch.float64)
    for step in range(4):
        terms = terms_of(network, step)
        deviations = torch.stack([deviation(t, network) for t in terms.values()])
        expected = 0.7 * expected + 0.3 * deviations.max() / deviations
        torch.testing.assert_close(balancer.backward(terms, network).weights, expected)


def test_the_authors_code():
    """Its numerator is the residual of the equation, whose weight stays 1; the average is half."""
    network = small_network()
    balancer = InverseDirichlet(reference="pde")
    lam = 1.0
    for step in range(4):
        terms = terms_of(network, step)
        lam_hat = deviation(terms["pde"], network) / deviation(terms["data"], network)
        lam = 0.5 * lam + 0.5 * lam_hat
        weight = balancer.backward(terms, network).weight
        assert weight["pde"] == 1.0
        torch.testing.assert_close(weight["data"], lam)


def test_the_weighted_gradients_have_one_deviation():
    network = small_network()
    terms = terms_of(network)
    step = InverseDirichlet(alpha=1.0).backward(terms, network)
    new = terms_of(network)
    after = [deviation(w * t, network) for w, t in zip(step.weights, new.values(), strict=True)]
    torch.testing.assert_close(torch.stack(after), torch.stack([max(after)] * 3))


def test_without_spread_a_term_keeps_its_weight():
    """A constant, a gradient of equal entries, and a term of a single parameter have none."""
    rows = torch.tensor([[1.0, 3.0], [0.0, 0.0], [0.3, 0.3]])
    terms, weight = linear_terms(rows)
    scalar = torch.ones(1, requires_grad=True)
    terms["d"] = 7 * scalar.sum()
    step = InverseDirichlet(alpha=1.0).backward(terms, [weight, scalar])
    assert step.weights.tolist() == [1.0] * 4
    terms, weight = linear_terms(rows[2:])
    assert InverseDirichlet().backward(terms, [weight]).weights.tolist() == [1.0]


@pytest.mark.parametrize("value", [0.1, 0.7, 1e-3, 123.4])
def test_equal_entries_have_no_spread_whatever_their_sum_rounds_to(value):
    terms, weight = linear_terms(torch.stack([torch.full((999,), value), torch.randn(999)]))
    assert InverseDirichlet(alpha=1.0).backward(terms, [weight]).weights.tolist() == [1.0, 1.0]


@given(power=st.integers(-20, 20), order=st.permutations(range(4)))
@settings(max_examples=40, deadline=None)
def test_scale_and_order_of_the_terms_do_not_matter(power, order):
    rows = torch.tensor([[3.0, -4, 1], [0.5, 1, 1], [100, 3, 0], [0, 0, 0]], dtype=torch.float64)
    terms, weight = linear_terms(rows)
    other, other_weight = linear_terms(10.0**power * rows[list(order)])
    plain = InverseDirichlet().backward(terms, [weight]).weights
    moved = InverseDirichlet().backward(other, [other_weight]).weights
    torch.testing.assert_close(moved, plain[list(order)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    rows = torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.25, -0.75]])
    terms, weight = linear_terms(rows)
    low, low_weight = linear_terms(rows.to(dtype))
    exact = InverseDirichlet().backward(terms, [weight]).weights
    torch.testing.assert_close(InverseDirichlet().backward(low, [low_weight]).weights, exact,
                               rtol=1e-6, atol=0)  # fmt: skip


def test_resume_is_bit_equal():
    network = small_network()
    whole = InverseDirichlet()
    trained(whole, network, 3)
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, InverseDirichlet())
    assert torch.equal(trained(whole, network, 4, 3), trained(resumed, copy, 4, 3))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"alpha": 0.0}, ValueError, "`alpha` must be a number above 0 and of at most 1"),
        ({"reference": 1}, TypeError, "`reference` must be the name of a term, got 1"),
        ({"reference": "x", "names": ["a"]}, ValueError, "`reference` must be one of the terms"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        InverseDirichlet(**options)


def test_residuals_at_every_point_are_refused():
    network = small_network()
    with pytest.raises(ValueError, match="term 'pde' must be a scalar"):
        InverseDirichlet().backward(residuals(network), network)


def test_without_the_reference_the_weights_are_held():
    network = small_network()
    balancer = InverseDirichlet(reference="pde")
    first = balancer.backward(terms_of(network, 0), network).weights.clone()
    balancer.backward(terms_of(network, 1) | {"pde": None}, network)
    assert torch.equal(balancer.weights, first)
