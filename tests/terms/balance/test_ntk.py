"""Weights by the trace of the tangent kernel against the kernel itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import (
    flat,
    gradients_of,
    residuals,
    small_network,
    through_a_file,
    trained,
)
from torch.func import functional_call, jacrev

from lossproof.terms.balance.ntk import NTKTrace


def kernels(network, step=0):
    """The whole kernel of each residual, row by row."""
    params = list(network.parameters())
    found = {}
    for name, r in residuals(network, step).items():
        jacobian = torch.stack([flat(gradients_of(entry, params)) for entry in r])
        found[name] = jacobian @ jacobian.T
    return found


def test_the_paper():
    """As many points in each term, as in the authors' code: trace_K / np.trace(K_u)."""
    network = small_network()
    three = {name: r[:2] for name, r in residuals(network).items()}
    traces = torch.stack([kernel[:2, :2].trace() for kernel in kernels(network).values()])
    for normalization in ("points", "none"):
        weights = (
            NTKTrace(normalization=normalization)
            .backward(three, network, retain_graph=True)
            .weights
        )
        torch.testing.assert_close(weights, traces.sum() / traces)


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_traces_by_their_numbers_of_points(chunk):
    network = small_network()
    found = kernels(network)
    means = torch.stack([kernel.trace() / len(kernel) for kernel in found.values()])
    step = NTKTrace(chunk=chunk).backward(residuals(network), network, retain_graph=True)
    torch.testing.assert_close(step.weights, means.sum() / means)
    sums = torch.stack([kernel.trace() for kernel in found.values()])
    step = NTKTrace(chunk=chunk, normalization="none").backward(residuals(network), network)
    torch.testing.assert_close(step.weights, sums.sum() / sums)


def test_the_kernel_of_a_prediction_with_several_components():
    network = torch.nn.Linear(2, 3).double()
    x = torch.rand(4, 2, dtype=torch.float64)
    jacobians = jacrev(lambda p: functional_call(network, p, (x,)))(
        dict(network.named_parameters())
    )
    trace = sum(j.square().sum() for j in jacobians.values()) / 12
    scalar = torch.ones(1, requires_grad=True, dtype=torch.float64)
    step = NTKTrace().backward({"pde": network(x), "one": scalar}, [*network.parameters(), scalar])
    torch.testing.assert_close(step.weights, (trace + 1) / torch.stack([trace, torch.ones(())]))


def test_what_is_minimised_is_the_weighted_mean_of_squares():
    network = small_network()
    step = NTKTrace().backward(residuals(network), network)
    params = list(network.parameters())
    total = sum(
        w * r.square().mean()
        for w, r in zip(step.weights, residuals(network).values(), strict=True)
    )
    torch.testing.assert_close(step.total, total.detach())
    for p, g in zip(params, gradients_of(total, params), strict=True):
        torch.testing.assert_close(torch.zeros_like(p) if p.grad is None else p.grad, g)


def test_only_the_chosen_parameters_are_in_the_kernel():
    network = small_network()
    layer = list(network[2].parameters())
    rows = [torch.stack([flat(gradients_of(entry, layer)) for entry in r])
            for r in residuals(network).values()]  # fmt: skip
    traces = torch.stack([j.square().sum() / len(j) for j in rows])
    step = NTKTrace().backward(residuals(network), network, on=network[2])
    torch.testing.assert_close(step.weights, traces.sum() / traces)
    assert network[0].weight.grad is not None


def test_the_larger_kernel_has_the_smaller_weight():
    weight = torch.ones(3, requires_grad=True)
    step = NTKTrace().backward({"stiff": 100 * weight, "soft": weight}, [weight])
    assert step.weight["stiff"] < step.weight["soft"]


def test_random_signs_estimate_the_trace():
    network = small_network()
    traces = [kernel.trace() / len(kernel) for kernel in kernels(network).values()]
    exact = torch.stack([sum(traces) / t for t in traces])
    step = NTKTrace(probes=4000, chunk=1000).backward(residuals(network), network)
    torch.testing.assert_close(step.weights, exact, rtol=0.1, atol=0)


def test_one_sign_is_exact_for_one_point():
    network = small_network()
    single = {name: r[:1] for name, r in residuals(network).items()}
    exact = NTKTrace().backward(single, network, retain_graph=True).weights
    torch.testing.assert_close(NTKTrace(probes=1).backward(single, network).weights, exact)


class Cubed(torch.autograd.Function):
    """Without a batching rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * grad.numpy())


def test_one_by_one_for_operations_without_a_batching_rule():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    terms = {"a": Cubed.apply(weight), "b": weight}
    weights = NTKTrace(chunk=1).backward(terms, [weight]).weights
    t = torch.tensor([(9 + 144) / 2, 1.0]).double()
    torch.testing.assert_close(weights, t.sum() / t)


@given(power=st.integers(-20, 20), order=st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_scale_and_order_of_the_terms_do_not_matter(power, order):
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    terms = {"a": 3 * weight, "b": weight[:2] ** 2, "c": 1e-3 * weight.exp()}
    moved = {name: 10.0**power * terms[name] for name in ("abc"[k] for k in order)}
    plain = NTKTrace().backward(terms, [weight], retain_graph=True).weights
    other = NTKTrace().backward(moved, [weight]).weights
    torch.testing.assert_close(other, plain[list(order)])


def test_degenerate_terms():
    weight = torch.ones(2, requires_grad=True)
    assert NTKTrace().backward({"a": 5 * weight}, [weight]).weights.tolist() == [1.0]
    same = dict.fromkeys("abc", 2 * weight)
    assert NTKTrace().backward(same, [weight]).weights.tolist() == pytest.approx([3.0] * 3)
    some = {"a": weight, "constant": torch.ones(4), "zero": 0 * weight}
    assert NTKTrace().backward(some, [weight]).weights.tolist() == [1.0, 1.0, 1.0]


def test_momentum():
    network = small_network()
    plain = NTKTrace().backward(residuals(network), network).weights
    slow = NTKTrace(momentum=0.9).backward(residuals(network), network).weights
    torch.testing.assert_close(slow, 0.9 + 0.1 * plain)


def test_absent_terms_and_held_weights():
    network = small_network()
    balancer = NTKTrace(every=2)
    first = balancer.backward(residuals(network, 0), network).weights.clone()
    assert torch.equal(balancer.backward(residuals(network, 1), network).weights, first)
    balancer.backward(residuals(network, 2) | {"bc": None}, network)
    assert balancer.weights[1] == first[1]
    assert balancer.weights[0] != first[0]


@pytest.mark.parametrize("probes", [None, 3])
def test_resume_is_bit_equal(probes):
    network = small_network()
    whole = NTKTrace(probes=probes, momentum=0.5)
    trained(whole, network, 3, points=True)
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, NTKTrace(probes=probes, momentum=0.5, seed=7))
    again = trained(resumed, copy, 4, 3, points=True)
    assert torch.equal(trained(whole, network, 4, 3, points=True), again)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"probes": 0}, ValueError, "`probes` must be an integer of at least 1"),
        ({"probes": 2.0}, TypeError, "`probes`"),
        ({"normalization": "mean"}, ValueError, "`normalization` must be one of 'points', 'none'"),
        ({"momentum": 1.0}, ValueError, "`momentum` must be a number of at least 0 and below 1"),
        ({"chunk": 0}, ValueError, "`chunk`"),
        ({"seed": -1}, ValueError, "`seed`"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        NTKTrace(**options)


def test_wrong_terms():
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="term 'a' must be the residual at every point"):
        NTKTrace().backward({"a": weight.sum()}, [weight])
    with pytest.raises(TypeError, match="must be a floating-point tensor"):
        NTKTrace().backward({"a": 1.0}, [weight])
    with pytest.raises(TypeError, match="NTKTrace needs the parameters: call balancer.backward"):
        NTKTrace()({"a": weight})
