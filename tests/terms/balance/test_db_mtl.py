"""DB-MTL against its algorithm and LibMTL's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import (
    flat,
    gradients_of,
    small_network,
    terms_of,
    through_a_file,
)

from lossproof.terms.balance.db_mtl import DBMTL


def positive_terms(rows, scale=1.0):
    matrix = torch.as_tensor(rows, dtype=torch.float64)
    weight = torch.zeros(1, matrix.shape[1], dtype=torch.float64, requires_grad=True)
    terms = {
        f"t{k}": scale * ((row * weight).sum() + 1.0 + k) for k, row in enumerate(matrix)
    }  # fmt: skip
    return terms, weight


@pytest.mark.parametrize(("beta", "sigma"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.5)])
def test_libmtl_step_by_step(beta, sigma):
    """Its buffer starts at zero and its step at one; its eps of 1e-8 is left out."""
    network = small_network()
    params = list(network.parameters())
    balancer = DBMTL(beta=beta, sigma=sigma)
    buffer = torch.zeros(3, sum(p.numel() for p in params), dtype=torch.float64)
    for step in range(1, 5):
        logs = [t.log() for t in terms_of(network, step).values()]
        gradients = torch.stack([flat(gradients_of(log, params)) for log in logs])
        buffer = gradients + (beta / step**sigma) * (buffer - gradients)
        norms = buffer.norm(dim=-1)
        alpha = norms.max() / norms
        expected = sum(a * row for a, row in zip(alpha, buffer, strict=True))
        for p in params:
            p.grad = None
        result = balancer.backward(terms_of(network, step), network)
        got = flat(torch.zeros_like(p) if p.grad is None else p.grad for p in params)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(result.weights * result.values, alpha)
        with torch.no_grad():
            for p in params:
                p.add_(0.1 * torch.randn_like(p))


def test_every_term_moves_its_logarithm_equally():
    terms, weight = positive_terms([[3.0, 0.0], [0.0, -50.0]])
    DBMTL(beta=0.0).backward(terms, [weight])
    assert weight.grad.tolist() == [[25.0, -25.0]]


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_between_refreshes_the_weights_are_held(beta):
    terms, weight = positive_terms([[3.0, 0.0], [0.0, -50.0]])
    balancer = DBMTL(beta=beta, every=2)
    first = balancer.backward(terms, [weight], retain_graph=True).weights
    weight.grad = None
    second = balancer.backward(terms, [weight]).weights
    assert torch.equal(first, second)
    torch.testing.assert_close(weight.grad, (second @ torch.tensor([[3.0, 0.0], [0.0, -50.0]])
                                             .double())[None])  # fmt: skip


@pytest.mark.parametrize("beta", [0.0, 0.9])
@given(powers=st.tuples(*[st.integers(-20, 20)] * 3), order=st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_the_unit_of_a_term_and_the_order_do_not_matter(beta, powers, order):
    rows = torch.tensor([[3.0, -4.0, 1.0], [0.5, 1.0, 1.0], [100.0, 3.0, 0.0]]).double()
    terms, weight = positive_terms(rows)
    DBMTL(beta=beta).backward(terms, [weight])
    other, other_weight = positive_terms(rows)
    scaled = {
        name: 10.0**power * term for power, (name, term) in zip(powers, other.items(), strict=True)
    }
    DBMTL(beta=beta).backward({f"t{k}": scaled[f"t{k}"] for k in order}, [other_weight])
    torch.testing.assert_close(other_weight.grad, weight.grad)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_constant_and_solved_terms_have_weight_zero(beta):
    weight = torch.ones(2, requires_grad=True)
    terms = {"a": weight.sum(), "solved": (weight - weight).square().sum(), "b": torch.tensor(3.0)}
    step = DBMTL(beta=beta).backward(terms, [weight])
    assert step.weights.tolist() == pytest.approx([0.5, 0.0, 0.0])
    assert torch.isfinite(weight.grad).all()


def test_half_precision_is_averaged_in_single():
    weight = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    balancer = DBMTL(beta=0.999)
    for _ in range(5):
        balancer.backward({"a": weight.sum()}, [weight])
    assert weight.grad.dtype == torch.bfloat16
    average = balancer.averages.get_buffer("average of parameter 0")
    expected = torch.full((1, 3), (1 - 0.999**5) / 3)
    torch.testing.assert_close(average, expected, rtol=1e-2, atol=0)


def test_the_average_fades_where_a_step_has_no_gradient():
    first, second = (torch.ones(2, requires_grad=True) for _ in range(2))
    balancer = DBMTL(beta=0.5)
    balancer.backward({"a": first.sum() + second.sum(), "b": second.sum()}, [first, second])
    before = balancer.averages.get_buffer("average of parameter 1").clone()
    balancer.backward({"a": first.sum(), "b": None}, [first, second])
    after = balancer.averages.get_buffer("average of parameter 1")
    assert torch.equal(after[0], before[0] / 2)
    assert torch.equal(after[1], before[1])
    assert (before != 0).all()


def train(balancer, network, steps):
    rows = []
    for step in steps:
        network.zero_grad()
        rows.append(balancer.backward(terms_of(network, step), network).weights)
        with torch.no_grad():
            for p in network.parameters():
                if p.grad is not None:
                    p.sub_(1e-3 * p.grad)
    return torch.stack([*rows, network[2].weight.detach()[:3, 0]])


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_resume_is_bit_equal(beta):
    network = small_network()
    whole = DBMTL(beta=beta, sigma=0.5)
    train(whole, network, range(3))
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, DBMTL(beta=beta, sigma=0.5))
    assert torch.equal(train(whole, network, range(3, 7)), train(resumed, copy, range(3, 7)))


def test_other_parameters_are_refused():
    terms, weight = positive_terms([[1.0, 2.0]])
    balancer = DBMTL()
    balancer.backward(terms, [weight])
    terms, weight = positive_terms([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="one balancer for each set of parameters"):
        balancer.backward(terms, [weight])
    with pytest.raises(TypeError, match="must know of which parameters: give `params`"):
        balancer.backward(terms)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 1.0}, "`beta` must be a number of at least 0 and below 1"),
        ({"sigma": -1}, "`sigma` must be a number of at least 0"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        DBMTL(**options)


def test_a_negative_term_is_named():
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="DBMTL needs values of at least 0, but that of term 'b'"):
        DBMTL().backward({"a": weight.sum(), "b": -weight.sum()}, [weight])


def test_the_average_of_an_absent_term_stays():
    network = small_network()
    balancer = DBMTL()
    balancer.backward(terms_of(network, 0), network)
    before = balancer.averages.get_buffer("average of 2/weight").clone()
    step = balancer.backward(terms_of(network, 1) | {"bc": None}, network)
    after = balancer.averages.get_buffer("average of 2/weight")
    assert step.names == ("pde", "data")
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])
    assert not torch.equal(after[2], before[2])
