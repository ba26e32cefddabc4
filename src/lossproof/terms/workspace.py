"""Memory that one step hands on to the next.

The gradients of K terms need fresh memory in every step, and on a CPU the operating system takes
longer to provide it than the processor to fill it. Buffers that a step has let go are kept for the
next one, and those that it did not want are forgotten.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import prod

import torch

Tensor = torch.Tensor
_Kind = tuple[int, torch.dtype]


class Workspace:
    """Buffers of the last step, for the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[_Kind, list[Tensor]] = {}
        self._unwanted: dict[_Kind, list[Tensor]] = {}

    def begin(self) -> None:
        """A step begins: what the last one did not want is forgotten."""
        with self._lock:
            self._unwanted = self._free
            self._free = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer with anything in it."""
        if device.type != "cpu":  # accelerators keep freed memory themselves
            return torch.empty(shape, dtype=dtype, device=device)
        kind = (prod(shape), dtype)
        with self._lock:
            for kept in (self._free, self._unwanted):
                if kept.get(kind):
                    return kept[kind].pop().view(shape)
        return torch.empty(shape, dtype=dtype)

    def give_back(self, buffers: list[Tensor]) -> None:
        """Nobody looks at these buffers any more."""
        with self._lock:
            for buffer in buffers:
                if buffer.device.type == "cpu":
                    kind = (buffer.numel(), buffer.dtype)
                    self._free.setdefault(kind, []).append(buffer.view(-1))


WORKSPACE = Workspace()


def loan(
    workspace: Workspace | None, taken: list[Tensor]
) -> Callable[[tuple[int, ...], Tensor], Tensor]:
    """A source of memory: buffers of a workspace, which are noted, or memory for good.

    Args:
        workspace: where buffers come from, if they are given back.
        taken: is extended by each buffer.
    """

    def give(shape: tuple[int, ...], like: Tensor) -> Tensor:
        if workspace is None:
            return like.new_empty(shape)
        taken.append(workspace.take(shape, like.dtype, like.device))
        return taken[-1]

    return give
