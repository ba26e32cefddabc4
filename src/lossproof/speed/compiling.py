"""Value and gradients of a function of tensors as one compiled program.

``torch.compile`` of a loss makes two programs, forward and backward, and each reads the inputs from
memory. Compiled together they are one, which for a pointwise loss is a single loop.
"""

from __future__ import annotations

import itertools
import types
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch

Tensor = torch.Tensor
F = TypeVar("F", bound=Callable[..., Any])
_NUMBERS = itertools.count()


class CompiledGradient:
    """The value of a function and its gradients in some of its arguments, in one program.

    Where the compiler refuses (there is no C++ compiler, the function looks at numbers in Python,
    an operation is not supported), it says so in a warning, once, and from then on autograd
    computes the same.

    Args:
        function: takes tensors alone and returns a scalar tensor.
        argnums: the positions of the tensors whose gradients are wanted.
        dynamic: whether one program serves all shapes, as for ``torch.compile``; ``None`` lets the
            second shape decide.
        name: what the function is called in the warning.

    Attributes:
        refusal: what the compiler said when it refused, or ``None``.

    Example:
        >>> import torch
        >>> from lossproof.speed.compiling import CompiledGradient
        >>> def squared_error(input, target):
        ...     return (input - target).square().mean()
        >>> both = CompiledGradient(squared_error, (0,))
        >>> (gradient,), value = both(torch.ones(4), torch.zeros(4))  # doctest: +SKIP
        >>> value, gradient  # doctest: +SKIP
        (tensor(1.), tensor([0.5000, 0.5000, 0.5000, 0.5000]))
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        argnums: Sequence[int],
        *,
        dynamic: bool | None = None,
        name: str = "the loss",
    ) -> None:
        self.function = function
        self.argnums = tuple(argnums)
        self.refusal: str | None = None
        self._name = name
        self._graphs = 0

        def both(*tensors: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            found: tuple[tuple[Tensor, ...], Tensor] = torch.func.grad_and_value(
                function, argnums=self.argnums
            )(*tensors)
            return found

        own = weakref.ref(self)  # the compiler never forgets a backend

        def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
            compiled = own()
            assert compiled is not None
            compiled._graphs += 1
            return inductor(graph, inputs)

        self._both = torch.compile(
            with_own_code(both), fullgraph=True, dynamic=dynamic, backend=backend
        )

    @property
    def compiled(self) -> bool:
        """Whether the last call ran a compiled program; ``False`` before the first."""
        return self._graphs > 0 and self.refusal is None

    def __call__(self, *tensors: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The gradients and the value at these tensors.

        Neither is part of a graph. The tensors may require gradients; their ``.grad`` stays as it
        is.
        """
        tensors = tuple(tensor.detach() for tensor in tensors)
        if self.refusal is not None:
            return self._uncompiled(tensors)
        try:
            with torch.no_grad():
                return self._both(*tensors)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            found = self._uncompiled(tensors)  # where the function is at fault, this tells
            self.refusal = reason(error)
            warn_of_refusal(self._name, self.refusal)
            return found

    def _uncompiled(self, tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        leaves = list(tensors)
        with torch.enable_grad():
            for position in self.argnums:
                leaves[position] = leaves[position].detach().requires_grad_()
            value = self.function(*leaves)
        wanted = [leaves[position] for position in self.argnums]
        if not value.requires_grad:
            return tuple(torch.zeros_like(leaf) for leaf in wanted), value
        gradients = torch.autograd.grad(value, wanted, materialize_grads=True)
        return gradients, value.detach()


def with_own_code(function: F) -> F:
    """The same function with a code object that no other has.

    The compiler keeps at most 8 programs for one code object, and all closures that a factory makes
    have one in common: the ninth of them would not be compiled. By the name of the code it
    remembers, too, which numbers of a closure differed, and takes those for variables from then on.
    """
    assert isinstance(function, types.FunctionType)
    own = types.FunctionType(
        function.__code__.replace(co_name=f"{function.__code__.co_name}_{next(_NUMBERS)}"),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return cast(F, own)


def inductor(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """What the graph computes as a program of torch's own compiler."""
    with warnings.catch_warnings():
        # Its import uses what torch itself has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch._inductor.compile_fx import compile_fx
    return compile_fx(graph, inputs)


def reason(error: BaseException) -> str:
    """The first sentence of what the compiler said."""
    error = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return f"{type(error).__name__}: {first[:300]}".rstrip(": ")


def warn_of_refusal(name: str, refusal: str) -> None:
    """Say that something runs uncompiled, and why."""
    warnings.warn(
        f"the compiler refused {name}, which is computed without it from now on: {refusal}",
        RuntimeWarning,
        stacklevel=3,
    )
