"""GradNorm against its algorithm, written with autograd and torch's own Adam."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import (
    linear_terms,
    small_network,
    terms_of,
    through_a_file,
    trained,
)
from torch import nn

from lossproof.terms.balance.gradnorm import GradNorm


class Reference:
    """Algorithm 1 of the paper, step by step."""

    def __init__(self, count, alpha, lr=0.025, first=None):
        self.alpha, self.first = alpha, first
        self.w = torch.ones(count, dtype=torch.float64, requires_grad=True)
        self.adam = torch.optim.Adam([self.w], lr=lr, eps=0.0)

    def step(self, losses, shared):
        used = self.w.detach().clone()
        losses = torch.stack(list(losses))
        if self.first is None:
            self.first = losses.detach()
        norms = torch.stack([
            torch.cat([g.flatten() for g in torch.autograd.grad(w * loss, shared, create_graph=True)
                       ]).norm()
            for w, loss in zip(self.w, losses, strict=True)
        ])  # fmt: skip
        left = losses.detach() / self.first
        rates = left / left.mean()
        target = (norms.mean() * rates**self.alpha).detach()
        (self.w.grad,) = torch.autograd.grad((norms - target).abs().sum(), self.w)
        self.adam.step()
        with torch.no_grad():
            self.w.mul_(len(self.w) / self.w.sum())
        return used


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_the_paper_step_by_step(alpha):
    network = small_network()
    shared = list(network[2].parameters())
    reference, balancer = Reference(3, alpha), GradNorm(alpha=alpha)
    for step in range(8):
        expected = reference.step(terms_of(network, step).values(), shared)
        got = balancer.backward(terms_of(network, step), shared).weights
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.1 * torch.randn_like(p))


def test_given_initial_losses():
    network = small_network()
    shared = list(network.parameters())[:-1]
    first = {"data": 3.0, "pde": 1.0, "bc": 2.0}
    reference = Reference(3, 1.5, first=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    balancer = GradNorm(initial_losses=first)
    for step in range(4):
        expected = reference.step(terms_of(network, step).values(), shared)
        torch.testing.assert_close(balancer.backward(terms_of(network, step), shared).weights,
                                   expected)  # fmt: skip


def test_it_evens_out_the_norms():
    """With alpha 0 the target is the mean norm: the weights settle where all norms are equal."""
    balancer = GradNorm(alpha=0.0, lr=0.01)
    terms, weight = linear_terms([[3.0, 0.0], [0.0, 1.0]])
    for _ in range(1500):
        step = balancer.backward(terms, [weight], retain_graph=True)
    assert step.weights.tolist() == pytest.approx([0.5, 1.5], abs=0.05)


def test_the_weights_sum_to_their_number_and_are_never_negative():
    balancer = GradNorm(lr=0.9)
    terms, weight = linear_terms([[1e3, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for _ in range(50):
        weights = balancer.backward(terms, [weight], retain_graph=True).weights
        assert weights.sum().item() == pytest.approx(3.0)
        assert (weights >= 0).all()


@given(power=st.integers(-20, 20), order=st.permutations(range(3)), steps=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_scale_and_order_of_the_terms_do_not_matter(power, order, steps):
    rows = torch.tensor([[3.0, -4.0, 1.0], [0.5, 1.0, 1.0], [100.0, 3.0, 0.0]]).double()
    names = [f"t{k}" for k in range(3)]

    def weights_after(scale, positions):
        weight = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
        balancer = GradNorm()
        for step in range(steps + 1):
            terms = {
                names[k]: scale * ((rows[k] * weight).sum() + 10 + k * step) for k in positions
            }
            last = balancer.backward(terms, [weight]).weights
        return last

    plain, moved = weights_after(1.0, range(3)), weights_after(10.0**power, order)
    torch.testing.assert_close(moved, plain[list(order)], rtol=1e-6, atol=1e-9)


def test_degenerate_terms():
    for rows in ([[2.0]], [[2.0]] * 4, [[0.0], [0.0]]):
        balancer = GradNorm()
        for _ in range(3):
            terms, weight = linear_terms(rows)
            assert balancer.backward(terms, [weight]).weights.tolist() == [1.0] * len(rows)


def test_a_constant_term_is_in_no_mean():
    with_constant, without = GradNorm(), GradNorm()
    for step in range(5):
        terms, weight = linear_terms([[3.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
        terms["a"] = terms["a"] + step
        three = with_constant.backward(terms, [weight], retain_graph=True).weights
        del terms["c"]
        two = without.backward(terms, [weight]).weights
        torch.testing.assert_close(three[:2] / three[1], two / two[1])


def test_the_term_that_falls_slower_is_favoured():
    """Equal norms; the first term has come down to a tenth, the second not at all."""
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    balancer = GradNorm()
    for first in (10.0, 1.0, 1.0):
        step = balancer.backward({"a": first + weight[0], "b": 5 + weight[1]}, [weight])
    assert step.weights[0] < 1 < step.weights[1]


def test_a_term_that_starts_at_zero_counts_as_untrained():
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    balancer = GradNorm()
    for first in (0.0, 7.0, 7.0):
        step = balancer.backward({"a": first + weight[0], "b": 5 + weight[1]}, [weight])
    assert step.weights.tolist() == [1.0, 1.0]


def test_norms_that_differ_by_rounding_are_equal():
    """Adam would make whole steps of it."""
    row = torch.randn(2000, generator=torch.Generator().manual_seed(0)).double()
    rows = torch.stack([row[torch.randperm(2000)] for _ in range(6)])
    assert rows.norm(dim=1).unique().numel() > 1
    balancer = GradNorm(alpha=0.0)
    for _ in range(3):
        terms, weight = linear_terms(rows)
        assert balancer.backward(terms, [weight]).weights.tolist() == [1.0] * 6


def test_resume_is_bit_equal():
    network = small_network()
    whole = GradNorm()
    trained(whole, network, 3)
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, GradNorm())
    assert torch.equal(trained(whole, network, 4, 3), trained(resumed, copy, 4, 3))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"alpha": -1}, ValueError, "`alpha` must be a number of at least 0"),
        ({"lr": 0}, ValueError, "`lr` must be a number above 0"),
        ({"initial_losses": {"a": 0.0}}, ValueError, "initial_losses"),
        ({"initial_losses": {"a": 1.0}, "names": ["b"]}, ValueError, "`initial_losses` must hold"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        GradNorm(**options)


def test_a_negative_term_is_named():
    parameter = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="term 'b' is -1"):
        GradNorm().backward({"a": 1 * parameter, "b": -1 * parameter}, [parameter])
