"""Numbers that a device is still computing, read once they are there, without waiting."""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor

PATIENCE = 2
"""How many questions are answered with no where a device cannot tell whether it is done."""


def runs_ahead(tensor: Tensor) -> bool:
    """Whether to read a number of this tensor's device is to wait for it."""
    return not tensor.is_cpu


class Reading:
    """A copy of some numbers under way to the processor's memory.

    Args:
        numbers: a vector of numbers on a device. It may be freed at once.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._done: Callable[[], bool] | None = None
        self._asked = 0
        event = _event_of(numbers.device)
        if event is None:
            self._numbers = numbers
            return
        self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=True)
        self._numbers.copy_(numbers, non_blocking=True)
        event.record()
        self._done = event.query

    def ready(self) -> bool:
        """Whether :meth:`numbers` would not wait."""
        self._asked += 1
        return self._done() if self._done is not None else self._asked > PATIENCE

    def numbers(self) -> list[float]:
        """The numbers; waits for them where they are not ready."""
        if self._done is not None and not self._done():
            torch.cuda.synchronize()
        return [float(number) for number in self._numbers.tolist()]


def _event_of(device: torch.device) -> torch.cuda.Event | None:
    """An event of a device that can be asked whether it is done; for CUDA and ROCm."""
    return torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
