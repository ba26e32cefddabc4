from unittest import mock

import pytest
import torch
from torch import nn

from lossproof.terms.filling import fill, listened_to, norm_of, shrinking
from lossproof.write.hooks import hooks_held_back


def parameter(*shape: int, **how) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape, **how))


def test_what_is_given_becomes_grad_without_a_copy():
    weight, gradient = parameter(3), torch.ones(3)
    fill([weight], [gradient])
    assert weight.grad is gradient


def test_the_second_gradient_is_added_in_place_as_torch_does():
    weight = parameter(3)
    fill([weight], [torch.ones(3)])
    first = weight.grad
    fill([weight], [torch.full((3,), 2.0)])
    assert weight.grad is first
    assert weight.grad.tolist() == [3.0, 3.0, 3.0]


def test_none_leaves_grad_as_it_is():
    untouched, other = parameter(2), parameter(2)
    other.grad = torch.ones(2)
    before = other.grad
    fill([untouched, other], [None, None])
    assert untouched.grad is None
    assert other.grad is before
    assert other.grad.tolist() == [1.0, 1.0]


def test_one_tensor_for_two_parameters_is_not_shared():
    first, second, gradient = parameter(2), parameter(2), torch.ones(2)
    fill([first, second], [gradient, gradient])
    first.grad.zero_()
    assert second.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("weight", "gradient"),
    [
        (nn.Parameter(torch.zeros(4, 3).t()), torch.ones(3, 4)),
        (
            nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)),
            torch.ones(2, 3, 4, 5),
        ),
        (nn.Parameter(torch.zeros(3, 4)), torch.ones(4, 3).t()),
        (nn.Parameter(torch.zeros(3, 4)), torch.ones(1, 1).expand(3, 4)),
        (nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)), torch.ones(3)),
    ],
)
def test_grad_is_laid_out_as_torch_lays_it_out(weight, gradient):
    fill([weight], [gradient])
    ours, weight.grad = weight.grad, None
    (weight * gradient.to(weight.dtype)).sum().backward()
    assert ours.stride() == weight.grad.stride()
    assert ours.dtype == weight.grad.dtype
    assert torch.equal(ours, weight.grad)


def test_a_sparse_grad_takes_a_dense_gradient_and_the_other_way_round():
    sparse = torch.sparse_coo_tensor([[0]], [[1.0, 2.0]], (3, 2), check_invariants=True)
    for first, second in ((sparse, torch.ones(3, 2)), (torch.ones(3, 2), sparse)):
        table = parameter(3, 2)
        fill([table], [first])
        fill([table], [second])
        assert table.grad.to_dense().tolist() == [[2.0, 3.0], [1.0, 1.0], [1.0, 1.0]]


def test_tensor_hooks_and_hooks_after_accumulation_are_run_once():
    weight, calls = parameter(2), []
    weight.register_hook(lambda gradient: calls.append("tensor") or gradient * 2)
    weight.register_post_accumulate_grad_hook(
        lambda leaf: calls.append(f"accumulated {leaf.grad.tolist()}")
    )
    fill([weight, parameter(1)], [torch.ones(2), torch.ones(1)])
    assert calls == ["tensor", "accumulated [2.0, 2.0]"]
    assert weight.grad.tolist() == [2.0, 2.0]


def test_hooks_are_held_back_and_come_back_in_their_order():
    weight, calls = parameter(2), []
    weight.register_hook(lambda gradient: calls.append("first"))
    second = weight.register_hook(lambda gradient: calls.append("second"))
    with hooks_held_back([weight]):
        torch.autograd.grad(weight.square().sum(), [weight])
    assert calls == []
    with pytest.raises(KeyError), hooks_held_back([weight]):
        raise KeyError
    torch.autograd.grad(weight.square().sum(), [weight])
    assert calls == ["first", "second"]
    second.remove()
    torch.autograd.grad(weight.square().sum(), [weight])
    assert calls == ["first", "second", "first"]


@pytest.mark.parametrize(
    "register", ["register_hook", "register_post_accumulate_grad_hook"], ids=str
)
def test_a_hook_that_removes_itself_leaves_the_gradient_as_it_is(register):
    weight = parameter(2)
    handle = getattr(weight, register)(lambda _: handle.remove())
    fill([weight], [torch.ones(2)])
    assert weight.grad.tolist() == [1.0, 1.0]


def test_a_hook_that_sets_another_does_not_lose_the_gradient_of_that_parameter():
    first, second = parameter(2), parameter(2)
    first.register_hook(lambda _: second.register_hook(lambda _: None) and None)
    fill([first, second], [torch.ones(2), torch.ones(2)])
    assert second.grad.tolist() == [1.0, 1.0]


def test_where_processes_train_together_the_accumulation_nodes_are_always_told():
    weight = parameter(2)
    assert not listened_to(weight)
    with mock.patch("torch.distributed.is_initialized", return_value=True):
        assert listened_to(weight)
    weight.register_post_accumulate_grad_hook(lambda leaf: None)
    assert listened_to(weight)


def test_the_norm_of_gradients_of_several_precisions():
    parts = [torch.full((9,), 2.0, dtype=torch.float16), None, torch.tensor([8.0]).double()]
    assert norm_of(parts).item() == 10.0
    assert norm_of([None]).item() == 0.0
    # 300² overflows in half precision.
    assert norm_of([torch.full((4,), 300.0, dtype=torch.float16)]).item() == 600.0


@pytest.mark.parametrize(("norm", "factor"), [(4.0, 0.5), (2.0, 1.0), (1e-30, 1.0), (0.0, 1.0)])
def test_only_what_is_too_long_is_shrunk(norm, factor):
    assert shrinking(torch.tensor(norm), 2.0).item() == factor


def test_a_norm_that_is_no_number_stays_visible():
    assert shrinking(torch.tensor(float("nan")), 2.0).isnan()
