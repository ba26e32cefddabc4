"""Half precision: computed in float32, returned as torch's own losses return it."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor
_HALVES = (torch.float16, torch.bfloat16)


def widened(argument: Any) -> Any:
    """The argument, in float32 where it is a tensor of half precision."""
    if isinstance(argument, Tensor) and argument.dtype in _HALVES:
        return argument.float()
    return argument


def result_dtype(arguments: tuple[Any, ...]) -> torch.dtype | None:
    """The dtype to which a float32 result is rounded, where its arguments were of half precision.

    Arguments of one half type give that type, beside float32 the result is float32. (Under autocast
    nothing is rounded: a loss in float16 overflows as soon as it is scaled.)
    """
    dtypes = {a.dtype for a in arguments if isinstance(a, Tensor) and a.is_floating_point()}
    if len(dtypes) != 1:
        return None
    (dtype,) = dtypes
    return dtype if dtype in _HALVES else None


def autocast_of(arguments: tuple[Any, ...]) -> str | None:
    """The kind of device for which autocast is on, where the arguments lie on one."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            kind = argument.device.type
            return kind if kind != "meta" and torch.is_autocast_enabled(kind) else None
    return None
