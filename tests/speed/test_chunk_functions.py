"""Derivatives of chunked losses: of every order, in every mode, and over and over."""

from __future__ import annotations

import pytest
import torch
from tests.speed.chunk_cases import (
    IGNORED,
    ROWS,
    assert_equal,
    batch,
    focal,
    head_case,
    loss_case,
    truth,
)
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn import functional as F

from lossproof.errors import UnsupportedGraphError
from lossproof.speed import chunk_plan
from lossproof.speed.chunking import chunk

HEADS = ("linear", "mlp", "module")
LOSSES = ("cross entropy", "focal")
CASES = [(head, loss) for head in HEADS for loss in LOSSES]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def both(head, loss, reduction="mean"):
    """The chunked loss and the same of the whole batch, as functions of the hidden states."""
    head, loss = head_case(head), loss_case(loss)
    hidden, target = batch()
    options = {"ignore_index": loss.ignore_index, "reduction": reduction}
    ours = chunk(loss.loss, head.head, chunk_size=16, **options)
    return (
        hidden,
        head,
        lambda x: ours(x, target),
        lambda x: truth(head, loss, reduction, x, target),
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("head", "loss"), CASES)
def test_finite_differences_agree(head, loss, reduction):
    case, loss = head_case(head), loss_case(loss)
    hidden, target = batch(5)
    ours = chunk(
        loss.loss, case.head, chunk_size=2, reduction=reduction, ignore_index=loss.ignore_index
    )
    names = [name for name, _ in ours.named_parameters()]
    weight = torch.rand(5).requires_grad_()
    leaves = [one.detach().clone().requires_grad_() for one in ours.parameters()]

    def function(hidden, weight, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return functional_call(ours, given, (hidden, target), {"weight": weight})

    inputs = (hidden, weight, *leaves)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=head != "linear")


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("head", "loss"), CASES)
def test_three_derivatives_where_the_factor_depends_on_a_parameter(head, loss, reduction):
    hidden, case, *functions = both(head, loss, reduction)
    leaves = [hidden, *case.leaves]
    found = []
    for function in functions:
        factor = case.leaves[0].square().mean()
        value = (function(hidden) * factor).sin().sum()
        first = torch.autograd.grad(value, leaves, create_graph=True)
        second = torch.autograd.grad(
            sum(one.square().sum() for one in first), leaves, create_graph=True
        )
        third = torch.autograd.grad(sum(one.sin().sum() for one in second), leaves)
        found.append([*first, *second, *third])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-9, atol=1e-10 * float(other.detach().abs().max())
        )


def test_a_gradient_penalty_needs_no_more_than_a_backward_through_backward():
    hidden, case, *functions = both("linear", "focal")
    found = []
    for function in functions:
        (slope,) = torch.autograd.grad(function(hidden), hidden, create_graph=True)
        slope.square().sum().backward()
        found.append([one.grad for one in (hidden, *case.leaves)])
        for one in (hidden, *case.leaves):
            one.grad = None
    assert_equal(*found)


@pytest.mark.filterwarnings("ignore:.* is drawn at random:RuntimeWarning")
@pytest.mark.parametrize("chunk_size", [7, 16, None])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("where", ["head", "loss", "both"])
def test_second_derivatives_are_of_the_random_numbers_that_were_drawn(
    where, reduction, chunk_size, monkeypatch
):
    rows = 300  # more than the 128 to which the graph of a gradient is cut otherwise
    monkeypatch.setattr(chunk_plan, "CACHE", 5 * 9 * 8)  # and more blocks than one
    torch.manual_seed(0)
    hidden, target = torch.randn(rows, 6), torch.randint(0, 9, (rows,))
    target[::7] = IGNORED
    along = torch.randn(rows, 6)
    linear = nn.Linear(6, 9)
    head = linear if where == "loss" else nn.Sequential(nn.Dropout(0.4), linear)
    loss = focal if where == "head" else lambda a, t: focal(F.dropout(a, 0.3), t)
    ours = chunk(loss, head, reduction=reduction, ignore_index=IGNORED, chunk_size=chunk_size)
    each = torch.linspace(0.3, 2, rows) if reduction == "none" else torch.tensor(1.7)

    def slope(at, *, create_graph=False):
        torch.manual_seed(7)
        at = at.clone().requires_grad_()
        value = (ours(at, target) * each).sum()
        return at, torch.autograd.grad(value, at, create_graph=create_graph)[0]

    step = 1e-6
    plus, minus = (slope(hidden + sign * step * along)[1] for sign in (1, -1))
    expected = (plus - minus) / (2 * step)
    at, found = slope(hidden, create_graph=True)
    torch.testing.assert_close(found.detach(), slope(hidden)[1], rtol=1e-12, atol=1e-14)
    product = (found * along).sum()
    (at_once,) = torch.autograd.grad(product, at, create_graph=True)
    (by_chunks,) = torch.autograd.grad(product, at)
    scale = float(expected.abs().max())
    torch.testing.assert_close(at_once.detach(), expected, rtol=1e-6, atol=1e-7 * scale)
    torch.testing.assert_close(by_chunks, expected, rtol=1e-6, atol=1e-7 * scale)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own jvp
@pytest.mark.parametrize(("head", "loss"), CASES)
def test_transformations_of_functions(head, loss):
    hidden, _, ours, whole = both(head, loss)
    x = hidden.detach()
    several = torch.stack([x, x * 2])
    tangent = torch.randn_like(x)

    def penalty(function):
        return lambda y: grad(function)(y).square().sum()

    for transform in (
        lambda f: grad(f)(x),
        lambda f: grad(penalty(f))(x),
        lambda f: vmap(f)(several),
        lambda f: vmap(grad(f))(several),
        lambda f: jvp(f, (x,), (tangent,))[1],
        lambda f: jvp(grad(f), (x,), (tangent,))[1],
        lambda f: torch.func.vjp(f, x)[1](torch.tensor(2.0))[0],
        lambda f: torch.func.hessian(lambda y: f(y * x))(torch.tensor(1.0)),
        lambda f: torch.autograd.functional.hvp(f, x, tangent)[1],
    ):
        assert_equal([transform(ours)], [transform(whole)])


@pytest.mark.parametrize("head", HEADS)
def test_jacobians(head):
    hidden, _, ours, whole = both(head, "focal", "none")
    expected = torch.stack(
        [torch.autograd.grad(one, hidden, retain_graph=True)[0] for one in whole(hidden)]
    )
    assert_equal([jacrev(ours)(hidden.detach())], [expected])
    eye = torch.eye(ROWS)
    assert_equal(torch.autograd.grad(ours(hidden), hidden, eye, is_grads_batched=True), [expected])
    (slope,) = torch.autograd.grad(ours(hidden).square().sum(), hidden, create_graph=True)
    two = torch.stack([slope.detach(), torch.ones_like(slope)])
    found = torch.autograd.grad(slope, hidden, two, is_grads_batched=True)
    (slope,) = torch.autograd.grad(whole(hidden).square().sum(), hidden, create_graph=True)
    each = [torch.autograd.grad(slope, hidden, one, retain_graph=True)[0] for one in two]
    assert_equal(found, [torch.stack(each)])


def test_functions_of_the_parameters():
    hidden, target = batch()
    head, loss = head_case("linear"), loss_case("focal")
    ours = chunk(loss.loss, head.head, chunk_size=16, ignore_index=IGNORED)
    parameters = {name: one.detach() for name, one in ours.named_parameters()}
    found = grad(lambda given: functional_call(ours, given, (hidden, target)))(parameters)
    expected = torch.autograd.grad(truth(head, loss, "mean", hidden, target), head.leaves)
    assert_equal([found["head.weight"], found["head.bias"]], expected)


def test_transformations_reach_what_a_function_closes_over():
    hidden, target = batch()
    head = head_case("linear")
    rows = (target != IGNORED).nonzero()[:, 0]

    def chunked(temperature):
        loss = chunk(
            lambda a, t: focal(a * temperature, t), head.head, ignore_index=IGNORED, chunk_size=16
        )
        return lambda x: loss(x, target)

    def whole(temperature):
        return lambda x: focal(head.logits(x[rows]) * temperature, target[rows]).mean()

    start = torch.tensor(1.3)
    x = hidden.detach()
    found, expected = (grad(lambda s, f=f: f(s)(x))(start) for f in (chunked, whole))
    assert_equal([found], [expected])
    leaf = start.clone().requires_grad_()
    of_outer = [
        torch.autograd.grad(grad(f(leaf))(x).square().sum(), leaf)[0] for f in (chunked, whole)
    ]
    assert_equal(of_outer[:1], of_outer[1:])


@pytest.mark.parametrize("loss", LOSSES)
def test_each_backward_gives_the_same_to_the_last_bit(loss):
    hidden, case, ours, _ = both("linear", loss)
    value = ours(hidden)
    leaves = [hidden, *case.leaves]
    first, second, third = (
        torch.autograd.grad(value * 0.3, leaves, retain_graph=True) for _ in range(3)
    )
    for one, other, another in zip(first, second, third, strict=True):
        assert torch.equal(one, other) and torch.equal(one, another)


def test_one_gradient_of_several_can_be_asked_for():
    hidden, case, ours, whole = both("mlp", "focal")
    for leaf in (hidden, *case.leaves):
        value = ours(hidden)
        found = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for _ in range(2)]
        (expected,) = torch.autograd.grad(whole(hidden), leaf)
        assert_equal(found, [expected] * 2)


def test_a_weight_changed_before_a_second_backward_is_an_error():
    hidden, case, ours, _ = both("linear", "focal")
    value = ours(hidden)
    value.backward(retain_graph=True)
    with torch.no_grad():
        case.leaves[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_the_graph_is_freed_after_backward():
    hidden, target = batch()
    found = chunk(F.cross_entropy, head_case("linear").head, chunk_size=16)(hidden, target)
    found.backward()
    with pytest.raises(RuntimeError, match="second time"):
        found.backward()


def test_a_jacobian_of_a_gradient_is_refused_in_words():
    hidden, _, ours, _ = both("linear", "focal")
    with pytest.raises(UnsupportedGraphError, match="jacrev.* take `torch.func.hessian`"):
        jacrev(grad(ours))(hidden.detach())
