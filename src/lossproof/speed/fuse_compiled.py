"""A loss that is called as before and computed by a compiled program."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch._dynamo

from lossproof.speed.compiling import inductor, reason, with_own_code
from lossproof.speed.fuse_measuring import unseen_by_hooks
from lossproof.speed.fuse_programs import (
    Differentiable,
    Graph,
    NotFusableError,
    NothingToFuseError,
    OneSweep,
    Program,
    TwoSweeps,
)

Tensor = torch.Tensor
_RAISED_BY = "torch._dynamo"


class Refusal(Exception):
    """A loss is not compiled.

    Args:
        why: what the compiler said, or what the loss does.
        of_the_loss: whether it is the latter.

    Attributes:
        in_two: whether it may be compiled in two programs, though not in one.
        expected: whether this is how it should be, and nothing to warn of.
    """

    def __init__(self, why: str, *, of_the_loss: NotFusableError | None = None) -> None:
        super().__init__(
            f"the loss {why}" if of_the_loss else f"the compiler refused the loss: {why}"
        )
        self.expected = isinstance(of_the_loss, NothingToFuseError)
        self.in_two = self.expected or of_the_loss is None

    def again(self) -> Refusal:
        """The same, to be raised: what was raised keeps the frames alive, and all their tensors."""
        other = Refusal.__new__(Refusal, *self.args)
        other.expected, other.in_two = self.expected, self.in_two
        return other


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

        own = weakref.ref(self)  # the compiler never forgets a backend

        def backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
            compiled = own()
            assert compiled is not None
            return compiled._backend(module, inputs)

        self._call = torch.compile(
            with_own_code(call), fullgraph=True, dynamic=dynamic, backend=backend
        )

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        """The loss.

        Raises:
            Refusal: it cannot be compiled, or the call is wrong: the plain loss tells.
        """
        if self.refusal is not None:
            raise self.refusal.again()
        try:
            value: Any = self._run(arguments, options)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not _of_the_compiler(error):
                raise
            raise self._refused(error) from error
        if not self._graphs:
            self.refusal = Refusal("torch.compile is turned off")
        if not isinstance(value, Tensor):
            self.refusal = _refusal_of(NotFusableError("returns something else than a tensor"))
            raise self.refusal.again()
        return value

    def _refused(self, error: Exception) -> Refusal:
        return self.refusal.again() if self.refusal else Refusal(_in_words(error))

    def _run(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
        value: Tensor
        if self._graphs:
            try:
                value = self._call(*arguments, **options)
                return value
            except RuntimeError:
                if self.refusal is not None:
                    raise
        # A number that differs from an earlier one would be a tensor of the graph, on whose value
        # no derivative may branch; and where warnings are errors, those of the compiler are, too.
        with torch._dynamo.config.patch(specialize_float=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = self._call(*arguments, **options)
        return value

    def _backend(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        try:
            with unseen_by_hooks():
                compiled = self._compiled(module, inputs)
        except NotFusableError as error:
            self.refusal = _refusal_of(error)
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


def _refusal_of(error: NotFusableError) -> Refusal:
    return Refusal(str(error), of_the_loss=error)


def _of_the_compiler(error: Exception) -> bool:
    """Whether the compiler may have raised this: checkpoints use exceptions to end what runs."""
    return isinstance(error, RuntimeError | IndexError) or _RAISED_BY in type(error).__module__


def _in_words(error: Exception) -> str:
    if "RecompileLimit" in type(error).__name__:
        return "what its program takes for granted, such as a number in an option, changes often"
    return reason(error)
