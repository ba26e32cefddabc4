"""Self-adaptive weights of points against plain descent and ascent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import gradients_of, residuals, small_network, through_a_file

from lossproof.terms.balance.self_adaptive_points import SelfAdaptivePoints
from lossproof.terms.balance.upgrad import UPGrad

POINTS = {"pde": 7, "bc": 3}


def started(**options):
    return SelfAdaptivePoints(POINTS, **options).double()


def test_the_authors_code_step_by_step():
    """Two optimisers: one descends in the network, the other is given the negative gradient."""
    network, reference = small_network(), small_network()
    balancer = started(initial={"pde": 1.0, "bc": 100.0})
    col, bc = (w.detach().clone().requires_grad_() for w in balancer.attention.split([7, 3]))
    adam = torch.optim.Adam([
        {"params": network.parameters(), "lr": 1e-3},
        {"params": balancer.parameters(), "lr": 5e-2},
    ])  # fmt: skip
    descends = torch.optim.Adam(reference.parameters(), lr=1e-3)
    ascends = torch.optim.Adam([col, bc], lr=5e-2, maximize=True)
    for step in range(6):
        r = residuals(reference, step)
        loss = (col * r["pde"]).square().mean() + (bc * r["bc"]).square().mean()
        loss = loss + r["data"].square().mean()
        for optimizer in (descends, ascends):
            optimizer.zero_grad()
        loss.backward()
        descends.step()
        ascends.step()
        adam.zero_grad()
        result = balancer.backward(residuals(network, step), network)
        torch.testing.assert_close(result.total, loss.detach())
        adam.step()
    torch.testing.assert_close(balancer.attention.detach(), torch.cat([col, bc]).detach())
    for p, q in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("params", ["all", "module", "both"])
def test_its_own_gradient_is_filled_once_whatever_the_parameters(params):
    network = small_network()
    balancer = started()
    given = {"all": None, "module": network, "both": [network, balancer]}[params]
    balancer.backward(residuals(network), given)
    r = residuals(network)
    expected = torch.cat([r[n].square() / len(r[n]) for n in POINTS]).detach()
    expected = -2 * balancer.attention.detach() * expected
    torch.testing.assert_close(balancer.attention.grad, expected)


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({"q": 1}, lambda w: w),
        ({"q": 4.0}, lambda w: w**4),
        ({"mask": "sigmoid"}, torch.sigmoid),
        ({"mask": lambda w: w.exp()}, torch.exp),
    ],
)
def test_masks(options, mask):
    network = small_network()
    balancer = started(**options)
    weights = balancer.attention.detach()
    r = residuals(network)
    terms = balancer(r)
    torch.testing.assert_close(terms["pde"], (mask(weights[:7]) * r["pde"] ** 2).mean())
    torch.testing.assert_close(terms["bc"], (mask(weights[7:]) * r["bc"] ** 2).mean())
    torch.testing.assert_close(terms["data"], (r["data"] ** 2).mean())


@given(seed=st.integers(0, 100), lr=st.floats(1e-3, 1.0))
@settings(max_examples=30, deadline=None)
def test_descent_never_lowers_a_weight(seed, lr):
    balancer = SelfAdaptivePoints({"a": 5}, seed=seed)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=lr)
    r = torch.randn(5, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    before = balancer.attention.detach().clone()
    balancer.backward({"a": r}, [r])
    optimizer.step()
    assert (balancer.attention >= before).all()
    assert (balancer.attention > before).any()


def test_a_sample_of_the_points():
    balancer = started()
    r = residuals(small_network())
    whole = balancer(r)
    index = {"pde": torch.tensor([5, 2, 0])}
    part = balancer(r | {"pde": r["pde"][index["pde"]]}, index=index)
    torch.testing.assert_close(part["bc"], whole["bc"])
    weights = balancer.attention.detach()[index["pde"]]
    torch.testing.assert_close(part["pde"], (weights * r["pde"][index["pde"]]).square().mean())
    (gradient,) = gradients_of(part["pde"], [balancer.attention])
    assert (gradient != 0).nonzero().flatten().tolist() == [0, 2, 5]


def test_before_another_balancer():
    """Measured on the network, and filled with what the weighted terms give, in both."""
    network = small_network()
    attention, balancer = started(), UPGrad()
    terms = attention(residuals(network))
    step = balancer.backward(terms, [network, attention], on=network)
    wanted = gradients_of(
        sum(
            w * t for w, t in zip(step.weights, attention(residuals(network)).values(), strict=True)
        ),
        [attention.attention],
    )
    torch.testing.assert_close(attention.attention.grad, wanted[0])
    alone = UPGrad().backward(attention(residuals(network)), network)
    torch.testing.assert_close(step.weights, alone.weights)


def test_the_start():
    balancer = SelfAdaptivePoints(POINTS, initial={"pde": 1.0, "bc": 100.0}, seed=3)
    assert (balancer.attention[:7] < 1).all()
    assert balancer.attention[7:].max() > 1
    same = SelfAdaptivePoints(POINTS, initial={"pde": 1.0, "bc": 100.0}, seed=3)
    assert torch.equal(balancer.attention, same.attention)
    other = SelfAdaptivePoints(POINTS, seed=4)
    assert not torch.equal(balancer.attention[:7], other.attention[:7])


def test_resume_is_bit_equal():
    def train(balancer, network, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            balancer.backward(residuals(network, step), network)
            optimizer.step()

    def optimizer_of(balancer, network):
        return torch.optim.SGD([*network.parameters(), *balancer.parameters()], lr=1e-2)

    network, whole = small_network(), started()
    train(whole, network, optimizer_of(whole, network), range(3))
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, started(seed=9))
    for balancer, net in ((whole, network), (resumed, copy)):
        train(balancer, net, optimizer_of(balancer, net), range(3, 6))
    assert torch.equal(whole.attention, resumed.attention)
    assert torch.equal(network[0].weight, copy[0].weight)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mask": "cubic"}, ValueError, "`mask` must be one of 'power', 'sigmoid'"),
        ({"q": 0}, ValueError, "`q` must be a number above 0"),
        ({"initial": -1}, ValueError, "`initial` must be a number of at least 0"),
        ({"initial": {"pde": 1.0}}, ValueError, "`initial` must hold a number for each"),
        ({"seed": 1.5}, TypeError, "`seed` must be an integer"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        SelfAdaptivePoints(POINTS, **options)
