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
        """The tensors, of which those at these places stand in front of the gate.

        Where no graph is recorded, there is nothing behind it: a graph that may have been freed is
        not entered.
        """
        record = torch.is_grad_enabled()
        with torch.enable_grad():
            return [
                self._one_before(one, record) if place in places else one
                for place, one in enumerate(tensors)
            ]

    def _one_before(self, tensor: Tensor, record: bool) -> Tensor:
        if not record:
            return tensor.detach().requires_grad_(tensor.requires_grad)
        gated: Tensor = _Gated.apply(self, tensor)  # type: ignore[no-untyped-call]
        return gated

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
