"""A place in the graph of autograd where gradients can be stopped for a while.

Behind such a place derivatives are partial ones, also in leaves that lie on both sides of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Tensor = torch.Tensor


class Gate:
    """A place in the graph that gradients do not pass for a while."""

    def __init__(self) -> None:
        self.open = True

    def before(self, tensors: Sequence[Tensor], places: Collection[int]) -> list[Tensor]:
        """The tensors, of which those at these places stand in front of the gate."""
        with torch.enable_grad():
            return [
                _Gated.apply(self, one) if place in places else one  # type: ignore[no-untyped-call]
                for place, one in enumerate(tensors)
            ]

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Inside, derivatives behind the gate are partial ones."""
        self.open = False
        try:
            yield
        finally:
            self.open = True


class _Gated(torch.autograd.Function):
    """The tensor itself, behind a gate."""

    @staticmethod
    def forward(ctx: Any, gate: Gate, tensor: Tensor) -> Tensor:
        ctx.gate = gate
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor | None]:
        return None, upstream if ctx.gate.open else None
