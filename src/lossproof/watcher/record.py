"""What a guard holds of the step in progress, so that it can be performed again.

References alone, no copies: the arguments of each call with the versions that they had, so that a
later write into one of them is known of, and the states of the random number generators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from lossproof.checks.trace import tensors_in

Tensor = torch.Tensor


@dataclass(eq=False, slots=True)
class Call:
    """One call of the model, or of something that returns terms.

    Attributes:
        role: ``"model"``, or ``"terms"`` for a loss or a function of terms.
        name: what its result is called where it is a single tensor.
        function: what was called; calling it again does not go through the guard.
        args: the arguments by position, as given.
        kwargs: the arguments by name, as given.
        versions: the version of each tensor among them (``checks.trace.tensors_in``), in order; 0
            for those of inference mode, which does not count.
        generators: the state of each random number generator before the call, by device; empty
            where the call goes on with what the one before it left.
        result: what it returned, with its graph.
        autocast: the type that autocast computed in, by the type of the device, where it was on.
    """

    role: Literal["model", "terms"]
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: Sequence[int]
    generators: dict[torch.device, Tensor]
    result: Any = None
    autocast: dict[str, torch.dtype] = field(default_factory=dict)


@dataclass(eq=False)
class StepRecord:
    """The calls of one step, in order, and the terms that came of them."""

    number: int
    calls: list[Call] = field(default_factory=list)
    terms: dict[str, Tensor] = field(default_factory=dict)
    dropped: str | None = None
    """Why calls are missing: they would have held more memory than the guard may."""
    before: StepRecord | None = None
    """The step before, where it is still held: what broke the parameters happened there."""


class Held:
    """The same of the step in progress: raw calls, which cost little to gather in every step."""

    __slots__ = ("before", "calls", "continued", "dropped", "step", "terms")

    def __init__(self, step: int, before: Held | None = None) -> None:
        self.step = step
        self.before = before
        """The step before, if nobody looked at its gradients."""
        self.calls: list[tuple[Any, ...]] = []
        self.terms: dict[str, Tensor] = {}
        self.dropped: str | None = None
        self.continued = False
        """Whether another optimizer goes on with the step before."""

    def record(self) -> StepRecord:
        """What a replay reads."""
        calls = [Call(*call) for call in self.calls]
        before = None if self.before is None else self.before.record()
        return StepRecord(self.step, calls, self.terms, self.dropped, before)


def versions_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[int]:
    """The version of each tensor in the order of ``tensors_in``."""
    if not kwargs:
        found: list[int] = []
        for one in args:
            if type(one) is not Tensor or one.is_inference():
                break
            found.append(one._version)
        else:
            return found  # the usual case, in every step
    return [0 if one.is_inference() else one._version for one in tensors_in((args, kwargs))]


def autocast_now() -> dict[str, torch.dtype]:
    """The type that autocast computes in, by the type of the device, where it is on."""
    return {
        kind: torch.get_autocast_dtype(kind)
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    }
