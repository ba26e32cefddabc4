"""The physical floor as a method that takes its turn: what no implementation can go below."""

from __future__ import annotations

from collections.abc import Callable


def moved(count: int) -> Callable[[], object]:
    """A step that moves so many bytes: a copy of half as many, read once and written once.

    A loss whose inputs are read once and whose gradients are written once moves
    ``sum(inputs) + sum(gradients)`` bytes, and cannot take less time. Both buffers are kept, so
    that no page is asked of the system.
    """
    import torch

    source = torch.ones(max(1, count // 8), dtype=torch.float32)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
