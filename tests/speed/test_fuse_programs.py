"""The programs of a loss: derivatives taken again, and what may not be one program."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from lossproof.speed.fusing import COMPILED, PLAIN, FusedLoss, fuse

Tensor = torch.Tensor
DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("interpreted")


def forced(loss: Callable[..., Tensor]) -> FusedLoss:
    return fuse(loss, measure=False)


def total(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2 + 1e-2).sqrt().sum()


def each(input: Tensor, target: Tensor) -> Tensor:
    return (input - target) ** 3


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)


# ---- derivatives of derivatives, by autograd


@pytest.mark.parametrize("loss", [total, each])
def test_an_input_that_is_computed_from_another_counts_once(loss, x: Tensor) -> None:
    fused = forced(loss)
    found, wanted = (
        torch.autograd.grad(one(x, x.exp()).sum(), x, create_graph=True)[0] for one in (fused, loss)
    )
    torch.testing.assert_close(found, wanted)
    seconds = (torch.autograd.grad(one.square().sum(), x)[0] for one in (found, wanted))
    torch.testing.assert_close(*seconds)
    many = torch.ones(2, dtype=DOUBLE)
    batched = (
        torch.autograd.grad(one(x, x.exp()).sum(), x, many, is_grads_batched=True)[0]
        for one in (fused, loss)
    )
    torch.testing.assert_close(*batched)


def test_a_tensor_that_is_closed_over_and_leads_to_an_input_counts_once(x: Tensor) -> None:
    scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)

    def loss(input: Tensor, target: Tensor) -> Tensor:
        return (scale * (input - target) ** 2).sum()

    y = torch.randn_like(x)
    found, wanted = (
        torch.autograd.grad(one(x * scale, y), scale, create_graph=True)[0]
        for one in (forced(loss), loss)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_hook_sees_a_gradient_once(create_graph: bool, x: Tensor) -> None:
    y = torch.randn_like(x)
    found = []
    for loss in (forced(total), total):
        seen: list[Tensor] = []
        leaf = x.detach().requires_grad_()
        leaf.register_hook(lambda grad, seen=seen: seen.append(grad) or 2 * grad)
        between = leaf * 1
        between.retain_grad()
        (grad,) = torch.autograd.grad(loss(between, y), leaf, create_graph=create_graph)
        assert len(seen) == 1
        found.append([grad, *([between.grad] if between.grad is not None else [])])
    torch.testing.assert_close(*found)


# ---- what is left to others


@pytest.mark.filterwarnings("ignore:.*float16")
@pytest.mark.parametrize("by", ["autocast", "the loss"])
def test_small_gradients_on_the_way_in_float16_wait_for_the_loss_scale(by: str) -> None:
    items = 1 << 14
    matrix = torch.randn(8, 8)

    def loss(input: Tensor, target: Tensor) -> Tensor:
        if by == "autocast":
            return F.mse_loss((input @ matrix).float(), target)
        return (input.half() - target.half()).float().square().mean()

    start, target = 1e-2 * torch.randn(items, 8), torch.zeros(items, 8)
    fused, grads = forced(loss), []
    for one in (fused, loss):
        input = start.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16, enabled=by == "autocast"):
            value = one(input, target)
        (2.0**14 * value).backward()
        grads.append(input.grad)
    assert ((grads[0] == 0) == (grads[1] == 0)).all()
    torch.testing.assert_close(*grads)
    assert fused.choices[0].way == COMPILED


@pytest.mark.parametrize("measure", [True, False])
def test_a_loss_without_a_gradient_is_nothing_to_warn_of(measure: bool, x: Tensor) -> None:
    fused = fuse(lambda input, target: total(input.detach(), target), measure=measure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = fused(x, torch.zeros_like(x))
    assert not value.requires_grad
    assert fused.choices[0].way in {COMPILED, PLAIN}


class Center(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(3, dtype=DOUBLE))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.center.data[1:].mul_(0.5).add_(input.detach().mean())
        return (input - target - self.center).square().mean()


@pytest.mark.parametrize("measure", [True, False])
def test_what_is_written_past_autograd_is_written_once(measure: bool, x: Tensor) -> None:
    own, plain = Center(), Center()
    fused = fuse(own, measure=measure)
    y = torch.randn_like(x)
    with pytest.warns(RuntimeWarning, match="changes a tensor in place"):
        value = fused(x, y)
    torch.testing.assert_close(value, plain(x, y))
    torch.testing.assert_close(own.center, plain.center)


def test_what_the_loss_made_itself_it_may_write_to(x: Tensor) -> None:
    def loss(input: Tensor, target: Tensor) -> Tensor:
        error = input - target
        error.data.clamp_(-1, 1)
        return error.mul_(2).square_().mean() + torch.zeros(()).add_(1)

    fused = forced(loss)
    y = torch.randn_like(x)
    torch.testing.assert_close(fused(x, y), loss(x, y))
    assert fused.choices[0].way == "fused"
