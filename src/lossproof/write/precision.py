"""Half precision: computed in float32, returned as torch's own losses return it."""

from __future__ import annotations

import functools
from typing import Any

import torch

Tensor = torch.Tensor
_HALVES = (torch.float16, torch.bfloat16)


def widened(argument: Any) -> Any:
    """The argument, in float32 where it is a tensor of half precision."""
    if isinstance(argument, Tensor) and argument.dtype in _HALVES:
        return argument.float()
    return argument


def any_half(arguments: tuple[Any, ...]) -> bool:
    """Whether one is a tensor of half precision."""
    return any(isinstance(a, Tensor) and a.dtype in _HALVES for a in arguments)


def result_dtype(arguments: tuple[Any, ...]) -> torch.dtype:
    """The dtype of a result whose arguments were of half precision, at least one of them.

    It is what torch makes of these types: that of all where they are the same, beside float32
    float32. (Under autocast nothing is rounded: a loss in float16 overflows as soon as it is
    scaled.)
    """
    dtypes = [a.dtype for a in arguments if isinstance(a, Tensor) and a.is_floating_point()]
    return functools.reduce(torch.promote_types, dtypes)


def autocast_of(arguments: tuple[Any, ...]) -> str | None:
    """The kind of device for which autocast is on, where the arguments lie on one."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            kind = argument.device.type
            return kind if kind != "meta" and torch.is_autocast_enabled(kind) else None
    return None
