"""What calls are given: tensors of unusual layout, shape, dtype or value, and other things."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor
Change = Callable[[Tensor], Any]


def _strided(t: Tensor) -> Tensor:
    return torch.stack([t, t], -1)[..., 0]


def _turned(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim > 1 else t


def _expanded(t: Tensor) -> Tensor:
    return t[:1].expand(t.shape) if t.ndim and len(t) else t


def _offset(t: Tensor) -> Tensor:
    return torch.cat([t.flatten()[:1], t.flatten()])[1:].reshape(t.shape) if t.numel() else t


def _negated(t: Tensor) -> Tensor:
    """The same numbers, the signs of which are still to be changed."""
    return torch._neg_view(-t) if t.is_floating_point() else t


def _wanting(t: Tensor) -> Tensor:
    return t.clone().requires_grad_() if t.is_floating_point() else t


def _computed(t: Tensor) -> Tensor:
    return _wanting(t) * 1 if t.is_floating_point() else t


def _parameter(t: Tensor) -> Tensor:
    return torch.nn.Parameter(t.clone()) if t.is_floating_point() else t


def _with_grad(t: Tensor) -> Tensor:
    if not t.is_floating_point():
        return t
    leaf = _wanting(t)
    leaf.grad = torch.ones_like(leaf)
    return leaf


LAYOUTS: dict[str, Change] = {
    "strided": _strided,
    "turned in memory": _turned,
    "expanded": _expanded,
    "at an offset": _offset,
    "negated lazily": _negated,
    "requires grad": _wanting,
    "computed": _computed,
    "a parameter": _parameter,
    "has a gradient": _with_grad,
}
"""The same numbers (one sample for all, if expanded) in another way."""

SHAPES: dict[str, Change] = {
    "a sample less": lambda t: t[:-1] if t.ndim else t,
    "one sample": lambda t: t[:1] if t.ndim else t,
    "no samples": lambda t: t[:0] if t.ndim else t,
    "no columns": lambda t: t[..., :0] if t.ndim else t,
    "one column": lambda t: t[..., :1] if t.ndim else t,
    "a column less": lambda t: t[..., :-1] if t.ndim else t,
    "a sample more": lambda t: torch.cat([t, t[:1]]) if t.ndim else t,
    "twice the samples": lambda t: torch.cat([t, t]) if t.ndim else t,
    "a last axis of 1": lambda t: t.unsqueeze(-1),
    "a first axis of 1": lambda t: t.unsqueeze(0),
    "a second axis of 2": lambda t: torch.stack([t, t], 1) if t.ndim else t,
    "flattened": lambda t: t.flatten(),
    "transposed": lambda t: t.transpose(0, -1) if t.ndim else t,
    "a scalar": lambda t: t.flatten()[0] if t.numel() else t,
    "many axes": lambda t: t.reshape(*t.shape, *(1,) * 5),
    "no elements": lambda t: t.new_empty(0),
    "no elements, three axes": lambda t: t.new_empty(2, 0, 3),
}

DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64),
)


def _to(dtype: torch.dtype) -> Change:
    return lambda t: (t.real if t.is_complex() else t).detach().to(dtype)


def _first(value: float) -> Change:
    """One element is this number, where the dtype can hold it."""

    def change(t: Tensor) -> Tensor:
        if t.numel() == 0 or not _holds(t.dtype, value):
            return t
        changed = t.detach().clone(memory_format=torch.contiguous_format)
        changed.view(-1)[0] = value
        return changed

    return change


def _every(value: float) -> Change:
    def change(t: Tensor) -> Tensor:
        return torch.full_like(t.detach(), value) if _holds(t.dtype, value) else t

    return change


def _holds(dtype: torch.dtype, value: float) -> bool:
    if dtype.is_floating_point or dtype.is_complex:
        return not math.isfinite(value) or abs(value) <= torch.finfo(dtype).max
    if dtype == torch.bool:
        return value in (0, 1)
    limits = torch.iinfo(dtype)
    return value == value and limits.min <= value <= limits.max


NUMBERS = (
    *(float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 1e-40, 1e30, 6e4),
    *(0.0, 1.0, -1.0, 2.0, -100.0, 255.0, 1e6),
)
VALUES: dict[str, Change] = {
    **{f"an element of {value:g}": _first(value) for value in NUMBERS},
    **{f"all {value:g}": _every(value) for value in NUMBERS},
    "times 1e20": lambda t: t.detach() * 1e20 if t.is_floating_point() else t,
    "times 1e-30": lambda t: t.detach() * 1e-30 if t.is_floating_point() else t,
    "negative": lambda t: -t.detach() if t.dtype != torch.bool else ~t,
}


def _of_numpy(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


KINDS: dict[str, Change] = {
    "None": lambda t: None,
    "a word": lambda t: "input",
    "a number": lambda t: 1.0,
    "an integer": lambda t: 3,
    "True": lambda t: True,
    "a complex number": lambda t: 1j,
    "a list": lambda t: t.tolist(),
    "a list of tensors": lambda t: [t],
    "an array": lambda t: np.asarray(t.detach().resolve_neg().to(_of_numpy(t.dtype))),
    "an object": lambda t: OBJECT,
    "a mapping": lambda t: {"input": t},
    "a class": lambda t: Tensor,
    "a tensor without data": lambda t: torch.empty_like(t, device="meta"),
}
OBJECT = object()
DTYPE_CHANGES = {str(dtype): _to(dtype) for dtype in DTYPES}


class _Odd:
    """Stands for no value at all in messages."""

    def __repr__(self) -> str:
        return "an object"


OPTIONS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, -100, 10**6, 10**30, 0.0, 0.5, 1.0, -0.5, 1e-8, 1e8),
    *(float("nan"), float("inf"), float("-inf"), 1j, "", "mean", "sum", "none", "no such word"),
    *([], [1.0], [1, 2], (), (1, 2), {}, {"a": 1}, _Odd(), Tensor, torch.float32),
    *(np.float32(0.5), np.int64(2), np.ones(3), range(3), b"mean", len),
    *(torch.tensor(0.5), torch.tensor(2), torch.tensor(True), torch.tensor(float("nan"))),
    *(torch.ones(3), torch.zeros(3), -torch.ones(3), torch.ones(2, 3), torch.ones(0)),
    *(torch.tensor([True, False]), torch.ones(3, dtype=torch.complex64)),
    torch.ones(3, requires_grad=True),
)
"""What options are given: the right ones of some are among them."""


def unusual_layout(random: Random, tensor: Tensor) -> Tensor:
    """The tensor in another way."""
    changed: Tensor = random.choice(list(LAYOUTS.values()))(tensor)
    return changed


def changed(random: Random, tensor: Tensor) -> Any:
    """Something else in place of a tensor: another shape, dtype, value, or no tensor at all."""
    kind = random.choice((SHAPES, DTYPE_CHANGES, VALUES, KINDS))
    if tensor.is_meta:  # changed once, it has no numbers any more
        return tensor
    return random.choice(list(kind.values()))(tensor)


def option(random: Random) -> Any:
    """A value for an option."""
    kind = random.random()
    if kind < 0.1:
        return random.uniform(-3, 3)
    if kind < 0.2:
        return random.randint(-3, 12)
    return random.choice(OPTIONS)


def no_function(random: Random) -> Any:
    """A value in place of a function."""
    while callable(value := option(random)):
        pass
    return value
