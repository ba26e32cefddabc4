"""The loss of a chunk of logits and its gradients as one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from lossproof.speed.chunk_plan import Plan
from lossproof.speed.compiling import CompiledGradient
from lossproof.speed.heads import AnyBodyHead, Body
from lossproof.write.precision import widened

Tensor = torch.Tensor


class CompiledLoss:
    """Compiles the loss of a plan, once for each choice of gradients that is asked for."""

    def __init__(self, plan: Plan) -> None:
        # The compiled function holds on to none of the tensors of a call.
        no_head = AnyBodyHead(Body(_identity, (), ()))
        self._plan = dataclasses.replace(
            plan, head=no_head, target_head=None, index=None, compiled=None
        )
        self._programs: dict[tuple[tuple[int, ...], bool], CompiledGradient] = {}

    def __call__(
        self,
        logits: Tensor,
        rows: Sequence[Tensor],
        of_loss: Sequence[Tensor],
        factor: Sequence[Tensor],
        wanted: Sequence[int],
    ) -> tuple[Sequence[Tensor], Tensor]:
        """The gradients in what is wanted, and the sum of the values.

        Args:
            logits: those of the chunk.
            rows: its other rows.
            of_loss: what the loss takes besides.
            factor: a factor for the values, or none.
            wanted: which of these, numbered through; the logits are 0.
        """
        places = tuple(wanted)
        key = places, bool(factor)
        if key not in self._programs:
            self._programs[key] = CompiledGradient(
                self._function(len(rows), bool(factor)), places, dynamic=True
            )
        return self._programs[key](logits, *rows, *of_loss, *factor)

    def _function(self, rows: int, factored: bool) -> Callable[..., Tensor]:
        plan = self._plan

        def total(logits: Tensor, *rest: Tensor) -> Tensor:
            of_rows = (logits, *rest[:rows])
            of_loss = rest[rows : len(rest) - factored]
            values = plan.counted(widened(plan.called(logits, of_rows, of_loss)), of_rows)
            return (values * rest[-1] if factored else values).sum()

        return total


def _identity(rows: Tensor) -> Tensor:
    return rows
