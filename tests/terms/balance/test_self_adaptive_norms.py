"""Weights by the ratio of gradient norms against their formula, PINA's and jaxpi's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import (
    flat,
    gradients_of,
    linear_terms,
    small_network,
    terms_of,
    through_a_file,
    trained,
)

from lossproof.terms.balance.self_adaptive_norms import SelfAdaptiveNorms


def norms_of(terms, network):
    params = list(network.parameters())
    return torch.stack([flat(gradients_of(t, params)).norm() for t in terms.values()])


def test_the_source():
    network = small_network()
    balancer = SelfAdaptiveNorms()
    expected = torch.ones(3, dtype=torch.float64)
    for step in range(4):
        terms = terms_of(network, step)
        norms = norms_of(terms, network)
        expected = 0.9 * expected + 0.1 * norms.sum() / norms
        torch.testing.assert_close(balancer.backward(terms, network).weights, expected)


def test_pina_and_jaxpi():
    network = small_network()
    terms = terms_of(network)
    norms = norms_of(terms, network)
    of_pina = torch.stack([sum(norms) / norm for norm in norms])
    of_jaxpi = norms.mean() / norms
    weights = SelfAdaptiveNorms(alpha=0.0).backward(terms, network).weights
    torch.testing.assert_close(weights, of_pina)
    torch.testing.assert_close(weights, 3 * of_jaxpi)


def test_the_weighted_gradients_have_the_norm_of_the_sum():
    terms, weight = linear_terms([[3.0, 4.0], [0.0, 1.0]])
    step = SelfAdaptiveNorms(alpha=0.0).backward(terms, [weight])
    assert (step.weights * torch.tensor([5.0, 1.0])).tolist() == pytest.approx([6.0, 6.0])
    assert weight.grad.tolist() == [[pytest.approx(3.6), pytest.approx(10.8)]]


@given(power=st.integers(-20, 20), order=st.permutations(range(4)))
@settings(max_examples=40, deadline=None)
def test_scale_and_order_of_the_terms_do_not_matter(power, order):
    rows = torch.tensor([[3.0, -4, 1], [0.5, 1, 1], [100, 3, 0], [0, 0, 0]], dtype=torch.float64)
    terms, weight = linear_terms(rows)
    other, other_weight = linear_terms(10.0**power * rows[list(order)])
    plain = SelfAdaptiveNorms().backward(terms, [weight]).weights
    moved = SelfAdaptiveNorms().backward(other, [other_weight]).weights
    torch.testing.assert_close(moved, plain[list(order)])
    assert plain[3] == 1.0


def test_degenerate_terms():
    for rows, expected in (([[2.0]], [1.0]), ([[2.0]] * 4, [4.0] * 4), ([[0.0], [0.0]], [1.0] * 2)):
        terms, weight = linear_terms(rows)
        assert SelfAdaptiveNorms(alpha=0.0).backward(terms, [weight]).weights.tolist() == expected


def test_resume_is_bit_equal():
    network = small_network()
    whole = SelfAdaptiveNorms()
    trained(whole, network, 3)
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, SelfAdaptiveNorms())
    assert torch.equal(trained(whole, network, 4, 3), trained(resumed, copy, 4, 3))


@pytest.mark.parametrize("alpha", [-0.1, 1.0])
def test_wrong_options(alpha):
    with pytest.raises(ValueError, match="`alpha` must be a number of at least 0 and below 1"):
        SelfAdaptiveNorms(alpha=alpha)
