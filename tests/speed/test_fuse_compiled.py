"""What is compiled while others look on, and what a refusal leaves behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lossproof.speed.fusing import FUSED, PLAIN, fuse

Tensor = torch.Tensor
DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("interpreted")


def charbonnier(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2 + 1e-2).sqrt().mean()


def pair(rows: int) -> tuple[Tensor, Tensor]:
    input = torch.randn(rows, 3, dtype=DOUBLE, requires_grad=True)
    return input, torch.randn(rows, 3, dtype=DOUBLE)


def test_another_shape_in_a_checkpoint_is_compiled_unseen() -> None:
    fused = fuse(charbonnier, measure=False)
    fused(*pair(4))
    input, target = pair(5)  # of the same kind, and compiled for it
    checkpoint(fused, input * 1, target, use_reentrant=False).backward()
    (wanted,) = torch.autograd.grad(charbonnier(input, target), input)
    torch.testing.assert_close(input.grad, wanted)


@pytest.mark.parametrize("measure", [True, False])
def test_a_loss_that_is_made_of_derivatives(measure: bool) -> None:
    def loss(input: Tensor, target: Tensor) -> Tensor:
        slope = torch.func.vmap(torch.func.grad(lambda x: (x**3).sum()))(input)
        return (slope - target).square().mean()

    input, target = pair(4)
    fused = fuse(loss, measure=measure)
    found, wanted = (torch.autograd.grad(3 * one(input, target), input)[0] for one in (fused, loss))
    torch.testing.assert_close(found, wanted)
    assert measure or fused.choices[0].way == FUSED
    with torch.autograd.graph.save_on_cpu():  # hooks are as they were
        pass


@pytest.mark.filterwarnings("ignore:the loss draws")
@pytest.mark.parametrize("random", [True, False])
def test_a_refusal_keeps_no_tensors(random: bool) -> None:
    def loss(input: Tensor, target: Tensor) -> Tensor:
        return (F.dropout(input, 0.5 if random else 0.0) * target).sum(0)

    fused = fuse(loss)
    for rows in (4, 300, 5):
        input, target = pair(rows)
        between = input * 1
        alive = weakref.ref(between)
        fused(between, target)
        del between
        gc.collect()
        assert alive() is None


@pytest.mark.parametrize("measure", [True, False])
def test_a_loss_that_is_no_longer_used_is_freed(measure: bool) -> None:
    module = Counts()
    fused = fuse(module, measure=measure)
    fused(*pair(4)).backward()
    alive = weakref.ref(module), weakref.ref(module.scale)
    del module, fused
    gc.collect()
    assert [one() for one in alive] == [None, None]


@pytest.mark.parametrize("rows", [(1, 0), (0, 1), (0, 0)])
def test_shapes_that_are_broadcast_and_change(rows: tuple[int, int]) -> None:
    fused = fuse(charbonnier, measure=False)
    for count in (5, 6, 7):
        input, target = (pair(one or count)[k] for k, one in enumerate(rows))
        found, wanted = (
            torch.autograd.grad(3 * one(input, target), input)[0] for one in (fused, charbonnier)
        )
        torch.testing.assert_close(found, wanted)
    assert {choice.way for choice in fused.choices} == {FUSED}


@pytest.mark.parametrize("more", [None, 3.0])
@pytest.mark.parametrize("measure", [True, False])
def test_a_tensor_with_something_beside_it(more: Any, measure: bool) -> None:
    def loss(input: Tensor, target: Tensor) -> Any:
        return charbonnier(input, target), more

    input, target = pair(4)
    fused = fuse(loss, measure=measure)
    with pytest.warns(RuntimeWarning, match="something else than a tensor"):
        assert fused(input, target) == loss(input, target)
    assert fused.choices[0].way == PLAIN


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen, self.notes = 0, [], {"n": 0}
        self.scale = nn.Parameter(torch.ones(3, dtype=DOUBLE))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append("call")
        self.notes["n"] += 1
        return (self.scale * (input - target)).square().mean()


def test_measuring_leaves_modules_that_a_function_closes_over_as_they_were() -> None:
    module, hooked = Counts(), []
    module.scale.register_hook(hooked.append)
    fused = fuse(lambda input, target: module(input, target))
    input, target = pair(4)
    value = fused(input.detach(), target)
    assert (module.calls, module.seen, module.notes) == (1, ["call"], {"n": 1})
    assert not hooked
    value.backward()
    assert len(hooked) == 1
