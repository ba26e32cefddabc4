"""A compiled gradient is autograd's, and what cannot be compiled says so."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch

from lossproof.speed.compiling import CompiledGradient, reason, with_own_code

Tensor = torch.Tensor


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs are run one operation after the other: a C++ compiler takes seconds for each."""
    monkeypatch.setattr("lossproof.speed.compiling.inductor", lambda graph, inputs: graph)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def by_autograd(function, tensors, argnums):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    return torch.autograd.grad(value, [leaves[k] for k in argnums]), value.detach()


def same(found, wanted):
    gradients, value = found
    torch.testing.assert_close(gradients, wanted[0])
    torch.testing.assert_close(value, wanted[1])
    assert not value.requires_grad
    assert not any(gradient.requires_grad for gradient in gradients)


@pytest.mark.usefixtures("interpreted")
def test_it_is_autograds_value_and_gradient_for_all_shapes() -> None:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return ((x - y) ** 4 + x.exp()).mean()

    both = CompiledGradient(loss, (0, 1))
    assert not both.compiled
    for rows in (3, 5, 21):
        tensors = pair(rows, 2)
        same(both(*tensors), by_autograd(loss, tensors, (0, 1)))
    assert both.compiled
    assert both.refusal is None
    assert both._graphs == 2  # of one shape, and of all others


def test_a_program_in_cpp_leaves_the_grad_of_what_it_is_given_as_it_is() -> None:
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return (factor * x * y).sum()

    x, y = pair(4)
    x.requires_grad_()
    both = CompiledGradient(loss, (0,))
    (gradient,), value = both(x, y)
    assert both.compiled
    torch.testing.assert_close(gradient, 2 * y)
    torch.testing.assert_close(value, 2 * (x * y).sum().detach())
    assert x.grad is None
    assert factor.grad is None


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("first", [1.5, 2], ids=["float", "int"])
def test_more_losses_of_one_factory_than_the_compiler_keeps_programs(first: float) -> None:
    def make(power: float):
        return lambda x, y: ((x - y).abs() ** power).sum()

    tensors = pair(3)
    made = [CompiledGradient(make(first + k), (0,)) for k in range(10)]
    for k, both in enumerate(made):
        same(both(*tensors), by_autograd(make(first + k), tensors, (0,)))
    assert all(both.compiled for both in made)


def test_a_loss_that_branches_on_numbers_is_computed_and_told_of_once() -> None:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        total = (x * y).sum()
        return total if total > 0 else -2 * total

    both = CompiledGradient(loss, (0, 1), name="the loss of this test")
    tensors = pair(3)
    with pytest.warns(RuntimeWarning, match="refused the loss of this test.*branching"):
        same(both(*tensors), by_autograd(loss, tensors, (0, 1)))
    assert not both.compiled
    assert both.refusal is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(both(*tensors), by_autograd(loss, tensors, (0, 1)))


def test_without_a_compiler_it_says_so_and_works() -> None:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return ((x - y) ** 6).sum() / 7

    tensors = pair(5)
    both = CompiledGradient(loss, (1,))
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.warns(RuntimeWarning, match="No working C\\+\\+ compiler"),
    ):
        same(both(*tensors), by_autograd(loss, tensors, (1,)))
    assert not both.compiled


def test_an_error_of_the_function_is_its_own_and_no_refusal() -> None:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        if len(x) != len(y):
            raise ValueError("lengths differ")
        return (x * y).sum()

    both = CompiledGradient(loss, (0,))
    with pytest.raises(ValueError, match="lengths differ"):
        both(torch.ones(2), torch.ones(3))
    assert both.refusal is None


@pytest.mark.usefixtures("interpreted")
def test_what_is_no_longer_used_is_freed() -> None:
    both = CompiledGradient(lambda x, y: (x * y).sum(), (0,))
    both(*pair(3))
    assert both.compiled
    alive = weakref.ref(both), weakref.ref(both.function)
    del both
    gc.collect()
    assert [one() for one in alive] == [None, None]


def test_what_does_not_depend_on_an_argument_has_a_gradient_of_zero() -> None:
    def constant(x: Tensor, y: Tensor) -> Tensor:
        if bool(y.sum() > 0):  # not compiled
            return y.sum()
        return (x - x.detach() * 0).sum() + y.sum()

    both = CompiledGradient(constant, (0,))
    with pytest.warns(RuntimeWarning):
        (gradient,), value = both(torch.ones(2), torch.ones(2))
    assert gradient.tolist() == [0.0, 0.0]
    assert value.item() == 2.0


def test_own_code_keeps_defaults_and_what_is_closed_over() -> None:
    factor = 3

    def function(x: int, y: int = 2) -> int:
        return factor * x + y

    own = with_own_code(function)
    assert own(1) == 5
    assert own.__code__ is not function.__code__


def test_a_reason_is_one_line_of_the_error_within() -> None:
    class Failed(Exception):
        inner_exception = ValueError("\n  no such thing\nand more")

    assert reason(Failed("outside")) == "ValueError: no such thing"
    assert reason(RuntimeError()) == "RuntimeError"
