"""A loss in half precision: cast as a whole, or under ``torch.autocast`` with a half prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lossproof.checks.accuracy import inherent, value_error
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.nonfinite import Culprit, find_culprit, innocent_marks, is_finite
from lossproof.checks.survey import is_representable

Tensor = torch.Tensor
Fault = Literal["not finite", "no room", "off", "raises"]

HALVES = (torch.float16, torch.bfloat16)
_CASTS = {"half": torch.float16, "bfloat16": torch.bfloat16}
OFF = 0.25
"""The relative error of the value from which on a result in half precision is wrong."""
EXPLAINED = 30.0
"""How many times larger it must be than what one rounding of the inputs explains."""
# What a CPU says of an operation that a GPU may well have.
_MISSING = ("not implemented for", "unsupported dtype", "doesn't support", "not supported")
_NO_ROOM = "without overflow"


@dataclass(frozen=True)
class Mode:
    """One way to use half precision."""

    words: str
    dtype: torch.dtype
    autocast: bool = False

    def values(self, case: Examination) -> tuple[Any, ...]:
        """The given inputs in this type; under autocast only what a network predicts is half."""
        return tuple(
            value.detach().to(self.dtype)
            if isinstance(value, Tensor)
            and value.is_floating_point()
            and (argument.differentiable or not self.autocast)
            else value
            for argument, value in zip(case.inputs.arguments, case.inputs.values, strict=True)
        )

    def within(self) -> contextlib.AbstractContextManager[Any]:
        """What the loss is called in."""
        if not self.autocast:
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=self.dtype)

    def run(self, call: Callable[[torch.dtype | None], Any]) -> Any:
        """Call something with the type to ask an evaluation for."""
        with self.within():
            return call(None if self.autocast else self.dtype)


MODES = (
    Mode("in float16", torch.float16),
    Mode("in bfloat16", torch.bfloat16),
    Mode("under autocast to float16", torch.float16, autocast=True),
)


@dataclass(frozen=True)
class Trial:
    """What the loss did in one mode."""

    mode: Mode
    fault: Fault | None
    found: Evaluation
    truth: Evaluation
    culprit: Culprit | None = None
    error: float = 0.0
    missing: bool = False
    """Whether this machine has no such operation, so that nothing is known."""


def use_of_half(case: Examination) -> dict[torch.dtype, str]:
    """The half precisions that are meant for this loss, and what shows it."""
    own = case.subject.state.parameters().values()
    used: dict[torch.dtype, str] = {}
    for value in (*case.inputs.values, *own):
        if isinstance(value, Tensor) and value.dtype in HALVES:
            used.setdefault(value.dtype, f"an input or a parameter is {_name(value.dtype)}")
    for operation in case.trace.casts:
        if operation.name in _CASTS:
            used.setdefault(_CASTS[operation.name], f"the loss calls `.{operation.name}()`")
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            used.setdefault(dtype, f"the check runs under autocast to {_name(dtype)}")
    return used


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tried(case: Examination, mode: Mode) -> Trial | None:
    """Call the loss in one mode at the given inputs; ``None`` where float64 says nothing there."""
    values = mode.values(case)
    truth = case.evaluate(values, dtype=torch.float64)
    if truth.failed or truth.value is None or not is_finite(truth):
        return None
    if not is_representable(truth, mode.dtype):
        return None
    found: Evaluation = mode.run(lambda dtype: case.evaluate(values, dtype=dtype))
    error = found.error or found.backward_error
    if error is not None:
        text = str(error).lower()
        missing = any(words in text for words in _MISSING)
        fault: Fault | None = "no room" if _NO_ROOM in text else None if missing else "raises"
        return Trial(mode, fault, found, truth, missing=missing)
    if found.value is None:
        return None
    if not is_finite(found):
        innocent = innocent_marks(case)
        culprit = mode.run(lambda dtype: find_culprit(case, values, dtype=dtype, innocent=innocent))
        return Trial(mode, "not finite", found, truth, culprit)
    off = value_error(found, truth)
    if off > OFF and not case.trace.random:
        explained, _ = inherent(case, values, truth, torch.finfo(mode.dtype).eps)
        if off > EXPLAINED * explained:
            return Trial(mode, "off", found, truth, error=off)
    return Trial(mode, None, found, truth)
