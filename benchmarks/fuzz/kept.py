"""What a call may not change: what it is given, and what belongs to the whole process."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class _Tensor:
    """A tensor, and what it was."""

    tensor: Tensor
    copy: Tensor
    version: int
    requires_grad: bool
    grad: Tensor | None
    grad_copy: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> _Tensor:
        grad = tensor.grad if tensor.is_leaf else None
        return cls(
            tensor,
            tensor.detach().clone(),
            tensor._version,
            tensor.requires_grad,
            grad,
            None if grad is None else grad.clone(),
        )

    def change(self, *, filled: bool) -> str | None:
        """What became of it."""
        now = self.tensor
        if not same(now.detach(), self.copy):
            return "has other values"
        if now._version != self.version:
            return "was written to"
        if now.requires_grad != self.requires_grad:
            return "has another `requires_grad`"
        if filled or not now.is_leaf:
            return None
        if now.grad is not self.grad:
            return "has another `.grad`"
        if now.grad is not None and self.grad_copy is not None:
            return None if same(now.grad, self.grad_copy) else "has other values in `.grad`"
        return None


class Given:
    """The tensors and arrays among the arguments of a call, and what they were."""

    def __init__(self, arguments: Any, filled: Sequence[Tensor] = ()) -> None:
        found = dict(leaves_of(arguments))
        self._tensors = {k: _Tensor.of(v) for k, v in found.items() if isinstance(v, Tensor)}
        self._arrays = {k: (v, v.copy()) for k, v in found.items() if isinstance(v, np.ndarray)}
        self._filled = {id(one) for one in filled}

    def changes(self) -> Iterator[str]:
        """What is no longer as it was."""
        for place, one in self._tensors.items():
            what = one.change(filled=id(one.tensor) in self._filled)
            if what is not None:
                yield f"{place} {what}"
        for place, (array, copy) in self._arrays.items():
            if not np.array_equal(array, copy, equal_nan=array.dtype.kind in "fc"):
                yield f"{place} has other values"


def leaves_of(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested lists, tuples, mappings and Modules, and where they stand."""
    if isinstance(value, torch.nn.Module):
        for name, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield f"{place}.{name}", tensor
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from leaves_of(one, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from leaves_of(one, f"{place}[{number}]")
    else:
        yield place, value


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, NaN included, and of the same kind; for what calls return."""
    if isinstance(one, Tensor):
        if not isinstance(other, Tensor):
            return False
        if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
            return False
        if one.is_meta:
            return True
        one, other = one.detach(), other.detach()
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same(*pair) for pair in pairs)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    return (
        bool(one == other) if isinstance(one, str | int | bool | None) else type(one) is type(other)
    )


def settings() -> dict[str, Any]:
    """What belongs to the process, by name."""
    return {
        "default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomaly mode": torch.is_anomaly_enabled(),
        "printing": torch._tensor_str.PRINT_OPTS,
        "numpy's errors": np.geterr(),
        "what is compiled": _stance(),
    }


def _stance() -> str:
    """Whether what is to be compiled is, as ``torch.compiler.set_stance`` says it."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return "default" if dynamo is None else str(dynamo._stance.stance)


def random_states() -> dict[str, Any]:
    """The states of the random generators, by name."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        "random": random.getstate(),
    }


def set_random_states() -> None:
    """Let all of them begin anew."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
