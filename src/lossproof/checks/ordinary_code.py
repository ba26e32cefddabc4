"""A Function's ``forward`` run as ordinary code, outside of torch's ``Function`` machinery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lossproof.checks.dispatch_mode import LeanDispatchMode
from lossproof.checks.sources import Sources
from lossproof.checks.subject import separate_setup
from lossproof.checks.trace import HALVES, Interceptor, Recorder, branch_taken, tensors_in

Tensor = torch.Tensor


class StandInContext:
    """Stands in for torch's ``ctx`` while ``forward`` runs as ordinary code."""

    def __init__(self, needs: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs)
        self.saved: tuple[Any, ...] = ()
        self.non_differentiable: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        pass

    def mark_dirty(self, *tensors: Tensor) -> None:
        pass

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self.non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        pass

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return self.saved


def perform_forward(
    cls: type[torch.autograd.Function], args: Sequence[Any], needs: Sequence[bool]
) -> tuple[Any, StandInContext]:
    """Run ``forward`` (and ``setup_context`` where there is one) as plain Python."""
    ctx = StandInContext(needs)
    if separate_setup(cls):
        output = cls.forward(*args)
        cls.setup_context(ctx, tuple(args), output)
    else:
        output = cls.forward(ctx, *args)
    return output, ctx


class AsOrdinaryCode(Recorder):
    """Records a ``forward`` that runs as ordinary differentiable code.

    Inside a real ``forward`` no graph is built, so ``detach``, ``.data`` and ``no_grad`` mean
    nothing there; here they would hide a path, and so they do nothing. A Function called inside
    is run through its own ``forward`` in the same way: it is judged on its own.
    """

    def __init__(self, sources: Sources, inputs: Sequence[Tensor | None], graph: bool) -> None:
        super().__init__(sources, inputs, lift=True)
        self.graph = graph

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.graph and func is torch.autograd.grad:
            return func(*args, **{**kwargs, "retain_graph": True})
        if self.graph and func is Tensor.backward:
            return func(*args, **{**kwargs, "retain_graph": True})
        if self.graph and func is Tensor.requires_grad_ and not args[0].is_leaf:
            # A detached piece that its author differentiates by itself, inside `forward`.
            args[0].retain_grad()
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == "_set_grad_enabled" and self.graph:
            return None
        if name in ("detach", "data"):
            func, args, kwargs = torch.ops.aten.alias.default, args[:1], {}
        return super().operate(func, name, args, kwargs)

    def call_function(
        self, cls: type, apply: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        needs = [isinstance(value, Tensor) and value.requires_grad for value in args]
        return perform_forward(cls, args, needs)[0]


class Branches(Interceptor):
    """Notes which branch each element takes in a ``forward`` that runs on plain numbers."""

    def __init__(self) -> None:
        super().__init__(lift=True)
        self.taken: list[Tensor] = []

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            branch = branch_taken(name, args, kwargs, out)
        if branch is not None:
            self.taken.append(branch)
        return out


class LiftedBackward(LeanDispatchMode):  # type: ignore[no-untyped-call]
    """Lifts casts to float64 while torch runs a backward, where no function mode is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.narrow = False
        """Whether anything came out in less than float64 all the same."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") in HALVES:
            kwargs = {**kwargs, "dtype": torch.float64}
        out = func(*args, **kwargs)
        self.narrow = self.narrow or any(tensor.dtype in HALVES for tensor in tensors_in(out))
        return out
