"""Losses computed in blocks and from the matrix of all pairs, for tests that compare them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossproof.losses import _blocks, _others
from lossproof.speed import blocks, pairing

Tensor = torch.Tensor
Loss = Callable[..., Tensor]


def in_blocks(monkeypatch: pytest.MonkeyPatch, *, pairs: int = 30) -> None:
    """Every batch is large, and a block holds few pairs."""
    monkeypatch.setattr(_blocks, "MANY_ON_CPU", 1)
    monkeypatch.setattr(_blocks, "TILE_ON_CPU", pairs)
    monkeypatch.setattr(_others, "MANY", 1)
    monkeypatch.setattr(pairing, "FEW_PAIRS", 1)
    monkeypatch.setattr(blocks, "CPU_BUDGET", 64)
    monkeypatch.setattr(blocks, "FEWEST", math.isqrt(pairs))


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is large."""
    monkeypatch.setattr(_blocks, "MANY_ON_CPU", math.inf)
    monkeypatch.setattr(_others, "MANY", math.inf)


def value_and_gradients(loss: Loss, tensors: Sequence[Any], **options: Any) -> list[Tensor]:
    """The value, and the gradient in each tensor and option that has one."""
    given = [_leaf(one) for one in tensors]
    named = {name: _leaf(one) for name, one in options.items()}
    value = loss(*given, **named)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    leaves = [one for one in (*given, *named.values()) if _differentiable(one)]
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]


def both_ways(
    monkeypatch: pytest.MonkeyPatch, loss: Loss, tensors: Sequence[Any], **options: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Value and gradients in blocks, and from the whole matrix."""
    with monkeypatch.context() as patch:
        in_blocks(patch)
        blockwise = value_and_gradients(loss, tensors, **options)
    with monkeypatch.context() as patch:
        whole(patch)
        return blockwise, value_and_gradients(loss, tensors, **options)


def _leaf(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor holds that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            # A view of few numbers, as by `expand`, holds no more than these.
            if isinstance(one, Tensor):
                held = one.untyped_storage().nbytes() // one.element_size()
                self.numbers = max(self.numbers, min(one.numel(), held))
        return result


def largest_tensor(loss: Loss, *tensors: Tensor) -> int:
    """How many numbers the largest tensor holds, in the value and its gradient."""
    leaves = [_leaf(one) for one in tensors]
    with LargestTensor() as seen:
        loss(*leaves).backward()
    return seen.numbers
