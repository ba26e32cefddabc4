"""A loss that is called as before and computed by a compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lossproof.speed.compiling import inductor, reason, with_own_code
from lossproof.speed.fuse_programs import (
    Differentiable,
    Graph,
    NoNumberError,
    NotFusableError,
    OneSweep,
    Program,
    TwoSweeps,
)

Tensor = torch.Tensor


class Refusal(Exception):
    """A loss is not compiled.

    Args:
        why: what the compiler said, or what the loss does.
        of_the_loss: whether it is the latter.
        no_number: whether the loss returns something else than a number with a gradient.

    Attributes:
        why: a sentence.
    """

    def __init__(self, why: str, *, of_the_loss: bool = False, no_number: bool = False) -> None:
        subject = "the loss " if of_the_loss else "the compiler refused the loss: "
        self.why = subject + why
        super().__init__(f"{self.why}; it is computed as it was written")
        self.no_number = no_number


class CompiledLoss:
    """A loss, compiled when it is called; a graph for each kind of call that needs one.

    Args:
        loss: the loss.
        fused: whether value and gradients are one program, or two as in ``torch.compile``.
        dynamic: as for ``torch.compile``.

    Attributes:
        refusal: why it cannot be compiled, or ``None``.
    """

    def __init__(self, loss: Callable[..., Tensor], *, fused: bool, dynamic: bool | None) -> None:
        self.refusal: Refusal | None = None
        self._fused = fused
        self._graphs = 0

        def call(*arguments: Any, **options: Any) -> Tensor:
            return loss(*arguments, **options)

        self._call = torch.compile(
            with_own_code(call), fullgraph=True, dynamic=dynamic, backend=self._backend
        )

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        """The loss.

        Raises:
            Refusal: it cannot be compiled, or the call is wrong: the plain loss tells.
        """
        if self.refusal is not None:
            raise self.refusal
        try:
            value: Tensor = self._call(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise self.refusal or Refusal(reason(error)) from error
        if not self._graphs:
            self.refusal = Refusal("torch.compile is turned off")
        return value

    def _backend(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        try:
            compiled = self._compiled(module, inputs)
        except NotFusableError as error:
            self.refusal = Refusal(
                str(error), of_the_loss=True, no_number=isinstance(error, NoNumberError)
            )
            raise
        self._graphs += 1
        return compiled

    def _compiled(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        graph = Graph(module, inputs)
        program: Program
        if self._fused:
            program = OneSweep(graph)
        elif graph.wanted and graph.value.requires_grad:
            program = TwoSweeps(graph, inputs)
        else:
            return inductor(module, inputs)

        def run(*inputs: Any) -> tuple[Tensor]:
            value: Tensor = Differentiable.apply(  # type: ignore[no-untyped-call]
                program, *inputs
            )
            return (value,)

        return run
