"""One call of a loss, recorded operation by operation.

A :class:`Recorder` sees every torch operation that the loss performs, with its line, and notes
where a value leaves the graph of derivatives (a *stop*), where a tensor is written in place, where
two tensors broadcast against each other, where random numbers are drawn, and which node of the
graph belongs to which line. A :class:`Replay` performs the same call at another point with every
stopped value held at what it was: its derivative is then exactly what autograd computes, so a
value that was stopped on purpose is no false alarm.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from lossproof.checks.sources import Site, Sources

Tensor = torch.Tensor
Maker = TypeVar("Maker")

# Attributes and methods that only describe a tensor: neither a derivative nor a value leaves.
DESCRIPTIONS = frozenset(
    """
    __hash__ __len__ __repr__ __format__ __dir__ __deepcopy__ __reduce_ex__ backward data_ptr dim
    dtype device element_size get_device grad grad_fn has_names is_complex is_contiguous is_cpu
    is_cuda is_floating_point is_inference is_leaf is_meta is_nested is_quantized is_same_size
    is_set_to is_signed is_sparse itemsize layout name names nbytes ndim ndimension nelement numel
    output_nr register_hook requires_grad requires_grad_ retain_grad retains_grad shape size stride
    storage storage_offset storage_type type untyped_storage volatile _base _is_view _version
    is_mps is_xpu is_mtia is_xla is_ipu is_maia is_vulkan is_shared
    register_post_accumulate_grad_hook _backward_hooks _post_accumulate_grad_hooks _grad _grad_fn
    __torch_dispatch__
    """.split()
)
RANDOM = frozenset(
    """
    bernoulli bernoulli_ cauchy_ dropout dropout1d dropout2d dropout3d alpha_dropout
    exponential_ feature_alpha_dropout geometric_ gumbel_softmax log_normal_ multinomial normal
    normal_ poisson rand rand_like randint randint_like randn randn_like random_ randperm rrelu
    uniform_ binomial
    """.split()
)
# Elementwise functions that broadcast inside, without an operator the user could see.
BROADCASTING_LOSSES = frozenset(
    """
    mse_loss l1_loss smooth_l1_loss huber_loss kl_div poisson_nll_loss soft_margin_loss
    margin_ranking_loss hinge_embedding_loss
    """.split()
)
BINARY = frozenset(
    """
    add sub subtract mul multiply div divide true_divide rsub __add__ __radd__ __sub__ __rsub__
    __mul__ __rmul__ __truediv__ __rtruediv__ __rdiv__ __pow__ __rpow__ pow maximum minimum fmax
    fmin atan2 hypot logaddexp logaddexp2 eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__
    __ge__ __and__ __or__ __xor__ logical_and logical_or logical_xor xlogy remainder fmod
    squared_difference
    """.split()
)
SUBTRACTIONS = frozenset({"sub", "subtract", "rsub", "__sub__", "__rsub__"})
ELEMENTWISE = BINARY | frozenset(
    """
    abs neg exp log log1p expm1 sqrt rsqrt square sigmoid tanh relu clamp clip float double half to
    type softplus logsigmoid reciprocal clone detach pow sin cos __neg__ __abs__ __invert__
    """.split()
)
# Their results hold whatever the memory held: no branch that anybody took.
UNWRITTEN = frozenset({"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"})
SINGLETON_MAKERS = frozenset({"unsqueeze", "expand", "expand_as", "broadcast_to", "diag_embed"})
NOWHERE: frozenset[int] = frozenset()
PYTHON_VALUES = (int, float, bool, complex, list)
ACCELERATING = "lossproof.speed."
"""Our own Functions, which hold a loss of the user's: it is compared with the plain one as a whole,
where theirs are judged one by one."""
HALVES = (torch.float32, torch.float16, torch.bfloat16)
# `x.type("torch.FloatTensor")` and `x.type(torch.FloatTensor)`, on any device.
LEGACY_HALVES = (".FloatTensor", ".HalfTensor", ".BFloat16Tensor")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def operands_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Every tensor that an operation is given; most are arguments themselves, not in a list."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple, dict)):
            found.extend(tensors_in(value))
    return found


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _integers(item)


def _has_memory(tensor: Tensor) -> bool:
    """Whether the tensor has an address that a write could be known by."""
    if tensor.layout is not torch.strided or tensor.numel() == 0 or tensor.is_meta:
        return False
    # Within `torch.func` a tensor stands for another one, and has no memory of its own.
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def operation_name(func: Callable[..., Any]) -> str:
    """The name a user knows an operation by; ``x.data`` and ``x.T`` are called ``data``, ``T``."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        attribute = getattr(getattr(func, "__self__", None), "__name__", "?")
        return str(attribute) if name == "__get__" else f"{attribute}="
    return str(name)


@dataclass(eq=False)
class Operation:
    """One torch operation of the call."""

    index: int
    name: str
    site: Site
    inside: type | None
    """The ``autograd.Function`` in whose ``forward`` it ran."""
    inputs: frozenset[int] = frozenset()
    """Which of the loss's inputs its operands come from."""
    unreduced: bool = False
    """Whether it was called with ``reduction="none"``."""
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    out: Any = field(default=None, repr=False)


@dataclass(eq=False)
class Stop:
    """A value that left the graph although what it was made from carries a derivative."""

    operation: Operation
    value: Any
    discrete: bool
    """Whether the value cannot change by a little: a comparison, an index, an integer."""
    no_grad: bool
    """Whether it happened because gradients were switched off."""

    @property
    def inputs(self) -> frozenset[int]:
        """The loss's inputs that the value was made from."""
        return self.operation.inputs


@dataclass(eq=False)
class Broadcast:
    """A two-operand operation whose result is larger than both operands."""

    operation: Operation
    left: tuple[int, ...]
    right: tuple[int, ...]
    result: tuple[int, ...]
    left_inputs: frozenset[int]
    right_inputs: frozenset[int]
    intended: bool
    """Whether an operand was given its axes of size 1 explicitly (``[:, None]``, ``keepdim``)."""
    one_sided: bool = False
    """Whether only one operand was, and the other is a vector of the same length."""


@dataclass(eq=False)
class Alignment:
    """A constant vector spread over one of several axes that all have its length."""

    operation: Operation
    length: int
    shape: tuple[int, ...]
    """The shape that it was spread over."""


@dataclass(eq=False)
class Write:
    """An operation that changed a tensor in place."""

    operation: Operation
    target: Tensor
    input: int | None
    """The loss's input that shares the written memory, if one does."""
    names: tuple[str, ...]
    """The local names in the user's function that were bound to the written tensor."""


@dataclass(eq=False)
class FunctionCall:
    """One ``autograd.Function.apply`` with copies of the arguments it was given."""

    cls: type[torch.autograd.Function]
    args: tuple[Any, ...]
    needs: tuple[bool, ...]
    """For each argument, whether a gradient is wanted for it."""
    site: Site
    inside: type | None = None
    output: Any = field(default=None, repr=False)


def is_carrying(operands: Sequence[Tensor]) -> bool:
    """Whether a derivative goes in. Asked before the operation: ``detach_`` takes it away."""
    return any(operand.requires_grad for operand in operands)


def result_of(name: str, args: tuple[Any, ...], out: Any) -> Any:
    """What an operation made; an assignment to elements returns nothing."""
    return args[0] if name == "__setitem__" else out


def is_stop(out: Any, operands: Sequence[Tensor]) -> bool:
    """Whether nothing of what carries a derivative comes out again."""
    results = [out] if isinstance(out, Tensor) else list(tensors_in(out))
    if not results:
        return isinstance(out, PYTHON_VALUES) or type(out).__module__ == "numpy"
    # A result that requires a gradient but has no history is a fresh leaf: cut all the same.
    for result in results:
        if result.requires_grad:
            if result.grad_fn is not None or any(result is operand for operand in operands):
                return False
    return True


def is_discrete(out: Any) -> bool:
    """Whether a result holds no number that could change by a little: integers, comparisons."""
    results = list(tensors_in(out))
    if results:
        return not any(result.is_floating_point() or result.is_complex() for result in results)
    return isinstance(out, (bool, int))


def note_nodes(known: dict[Any, Maker], node: Any, maker: Maker) -> None:
    """Note who made a node of the graph.

    One Python-level function may make several nodes; all that nobody is known to have made are
    its own.

    Args:
        known: the makers of the nodes that were noted before; added to.
        node: the node of a result.
        maker: what made it.
    """
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in known or hasattr(node, "variable"):
            continue
        known[node] = maker
        waiting += [following for following, _ in node.next_functions]


def _asks_for_a_type(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a floating type narrower than float64 is asked for by name."""
    if name in ("float", "half", "bfloat16"):
        return True
    if name == "type" and len(args) > 1 and str(args[1]).rstrip("'>").endswith(LEGACY_HALVES):
        return True
    # Plain loops: this is asked of every operation of every call.
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, torch.dtype) and value in HALVES:
            return True
    return False


def _lift(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any, Any]:
    """Turn a request for a narrower floating type into one for float64."""
    if not _asks_for_a_type(name, args, kwargs):
        return name, args, kwargs
    if name in ("float", "half", "bfloat16"):
        return "double", args[:1], {}

    def lifted(value: Any) -> Any:
        return torch.float64 if isinstance(value, torch.dtype) and value in HALVES else value

    if name == "type" and not isinstance(args[1], torch.dtype):
        return "double", args[:1], {}
    return (
        name,
        tuple(map(lifted, args)),
        {key: lifted(value) for key, value in kwargs.items()},
    )


class Interceptor(TorchFunctionMode):
    """What recording and replaying have in common: names, stops, and custom Functions."""

    def __init__(self, lift: bool = False) -> None:
        super().__init__()
        self.lift = lift
        self.inside: list[type] = []
        self._collecting = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if name in DESCRIPTIONS and not (name == "type" and len(args) + len(kwargs) > 1):
            return func(*args, **kwargs)
        if self.lift:
            lifted, args, kwargs = _lift(name, args, kwargs)
            func = func if lifted == name else Tensor.double
        return self.operate(func, name, args, kwargs)

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        raise NotImplementedError

    def call_function(
        self, cls: type, apply: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Perform ``cls.apply``; what happens inside its forward is its own business."""
        self.inside.append(cls)
        try:
            return apply(*args, **kwargs)
        finally:
            self.inside.pop()

    def __enter__(self) -> Any:
        # What is kept of a call is no garbage: with thousands of operations, looking through all
        # of it again and again takes longer than the call.
        self._collecting = gc.isenabled()
        gc.disable()
        self._hook = intercept_functions(self.call_function)
        self._hook.__enter__()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hook.__exit__(*error)
        if self._collecting:
            gc.enable()


@contextlib.contextmanager
def intercept_functions(handler: Callable[..., Any]) -> Iterator[None]:
    """Route every ``autograd.Function.apply`` of a user's class through ``handler``.

    ``Function.apply`` itself ends in ``super().apply``, so a patch of the class above it also sees
    an ``apply`` that the user bound to a name long before (``mse = MyMSE.apply``).
    """
    base = torch.autograd.function._SingleLevelFunction
    outer = base.__dict__.get("apply")

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        def real(*a: Any, **k: Any) -> Any:
            return super(base, cls).apply(*a, **k)  # type: ignore[misc]

        if cls.__module__.startswith("torch."):
            return real(*args, **kwargs)
        return handler(cls, real, args, kwargs)

    base.apply = classmethod(apply)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if outer is None:
            del base.apply  # type: ignore[attr-defined]
        else:
            base.apply = outer  # type: ignore[attr-defined]


class Recorder(Interceptor):
    """Records one call of a loss.

    Args:
        sources: tells the user's files from the rest.
        inputs: the tensors that the loss is called with, in order; ``None`` where an argument is
            no tensor.
        lift: turn casts to narrower floating types into casts to float64.
    """

    def __init__(
        self, sources: Sources, inputs: Sequence[Tensor | None] = (), lift: bool = False
    ) -> None:
        super().__init__(lift)
        self.sources = sources
        self.operations: list[Operation] = []
        self.stops: list[Stop] = []
        self.broadcasts: list[Broadcast] = []
        self.alignments: list[Alignment] = []
        self.writes: list[Write] = []
        self.random: list[Operation] = []
        self.casts: list[Operation] = []
        self.calls: list[FunctionCall] = []
        self.nodes: dict[Any, Operation] = {}
        """Node of the backward graph -> the operation that made it."""
        self.results: dict[int, tuple[Operation, Any]] = {}
        """id of a result -> the operation that made it and the result itself, kept alive."""
        self._origin: dict[int, frozenset[int]] = {}
        self._singleton: set[int] = set()
        self._memory = {
            tensor.untyped_storage().data_ptr(): position
            for position, tensor in enumerate(inputs)
            if tensor is not None and _has_memory(tensor)
        }
        for position, tensor in enumerate(inputs):
            if tensor is not None:
                self._origin[id(tensor)] = frozenset({position})

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        operands = operands_of(args, kwargs)
        versions = [operand._version for operand in operands] if operands else []
        carrying = is_carrying(operands)
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            operation = self._record(name, args, kwargs, operands, versions, out)
            made = result_of(name, args, out)
            if carrying and not self.inside and is_stop(made, operands):
                self._note_stop(operation, made)
        return out

    def _record(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[Tensor],
        versions: list[int],
        out: Any,
    ) -> Operation:
        origin = self._origin_of(operands)
        operation = Operation(
            len(self.operations),
            name,
            self.sources.site(),
            self.inside[-1] if self.inside else None,
            origin,
            kwargs.get("reduction") == "none",
            args,
            kwargs,
            out,
        )
        self.operations.append(operation)
        if name in RANDOM:
            self.random.append(operation)
        if _asks_for_a_type(name, args, kwargs):
            self.casts.append(operation)
        for operand, version in zip(operands, versions, strict=True):
            if operand._version != version:
                self._note_write(operation, operand)
                self._origin[id(operand)] = origin
        self._note_broadcast(operation, args, kwargs, operands, out)
        for result in tensors_in(out):
            self._origin[id(result)] = origin
            self.results[id(result)] = (operation, result)
            self._note_singleton(operation, operands, args, result)
            if result.grad_fn is not None:
                note_nodes(self.nodes, result.grad_fn, operation)
        return operation

    def _origin_of(self, operands: Sequence[Tensor]) -> frozenset[int]:
        """Which of the loss's inputs these tensors were made from."""
        origins = {self._origin.get(id(operand), NOWHERE) for operand in operands}
        return origins.pop() if len(origins) == 1 else NOWHERE.union(*origins)

    def _note_stop(self, operation: Operation, out: Any) -> None:
        results = list(tensors_in(out))
        value = out.detach().clone() if isinstance(out, Tensor) else out
        if not results and type(out).__module__ == "numpy" and hasattr(out, "copy"):
            value = out.copy()
        self.stops.append(Stop(operation, value, is_discrete(out), not torch.is_grad_enabled()))

    def _note_write(self, operation: Operation, target: Tensor) -> None:
        position = None
        if _has_memory(target):
            position = self._memory.get(target.untyped_storage().data_ptr())
        frame = self.sources.frame()
        names: list[str] = []
        if frame is not None:
            names = [name for name, value in frame.f_locals.items() if value is target]
        self.writes.append(Write(operation, target, position, tuple(sorted(names))))

    def _note_broadcast(
        self,
        operation: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[Tensor],
        out: Any,
    ) -> None:
        losses = operation.name in BROADCASTING_LOSSES
        if len(operands) < 2 or not (losses or operation.name in BINARY):
            return
        left, right = operands[0], operands[1]
        if left.shape == right.shape:
            return
        try:
            shape = np.broadcast_shapes(left.shape, right.shape)
        except ValueError:
            return
        if math.prod(shape) <= max(left.numel(), right.numel()):
            self._note_alignment(operation, left, right)
            return
        marked = [operand for operand in (left, right) if id(operand) in self._singleton]
        self.broadcasts.append(
            Broadcast(
                operation,
                tuple(left.shape),
                tuple(right.shape),
                tuple(shape),
                self._origin.get(id(left), frozenset()),
                self._origin.get(id(right), frozenset()),
                bool(marked) and not losses,
                len(marked) == 1
                and operation.name in SUBTRACTIONS
                and left.numel() == right.numel()
                and min(left.dim(), right.dim()) == 1,
            )
        )

    def _note_alignment(self, operation: Operation, left: Tensor, right: Tensor) -> None:
        small, large = (left, right) if left.numel() < right.numel() else (right, left)
        constant = not self._origin.get(id(small))
        if small.dim() == 1 and constant and 1 < small.numel() == large.shape[-1]:
            if sum(size == small.numel() for size in large.shape) > 1:
                self.alignments.append(Alignment(operation, small.numel(), tuple(large.shape)))

    def _note_singleton(
        self, operation: Operation, operands: list[Tensor], args: tuple[Any, ...], result: Tensor
    ) -> None:
        """Remember tensors that were given axes of size 1 on purpose, and what is made of them."""
        if 1 not in result.shape and operation.name not in SINGLETON_MAKERS:
            return
        ones = sum(size == 1 for size in result.shape)
        if operation.name in ELEMENTWISE:
            made = any(
                id(operand) in self._singleton and operand.shape == result.shape
                for operand in operands
            )
        else:
            before = max((sum(s == 1 for s in operand.shape) for operand in operands), default=0)
            inherited = any(id(operand) in self._singleton for operand in operands)
            # `view(n, -1, 1)` says so itself, also where another axis of size 1 went away.
            asked = operation.name in ("view", "reshape") and 1 in _integers(args)
            made = ones > before or operation.name in SINGLETON_MAKERS or inherited or asked
        if made:
            self._singleton.add(id(result))

    def call_function(
        self, cls: type, apply: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with torch._C.DisableTorchFunction():
            copies = tuple(
                value.detach().clone() if isinstance(value, Tensor) else value for value in args
            )
            needs = tuple(isinstance(value, Tensor) and value.requires_grad for value in args)
        outer = self.inside[-1] if self.inside else None
        call = FunctionCall(cls, copies, needs, self.sources.site(), outer)
        if not cls.__module__.startswith(ACCELERATING):
            self.calls.append(call)
        out = super().call_function(cls, apply, args, kwargs)
        with torch._C.DisableTorchFunction():
            origin = self._origin_of(list(tensors_in(args)))
            operation = Operation(len(self.operations), cls.__name__, call.site, outer, origin)
            self.operations.append(operation)
            call.output = out
            for result in tensors_in(out):
                self._origin[id(result)] = origin
                self.results[id(result)] = (operation, result)
                if result.grad_fn is not None:
                    note_nodes(self.nodes, result.grad_fn, operation)
        return out


class ReplayMismatch(RuntimeError):
    """The replayed call took another way than the recorded one."""


class Replay(Interceptor):
    """Performs a recorded call at another point, with every stopped value held fixed.

    Args:
        stops: the stops of the recorded call, in order; ``None`` in a place lets that one move.
        lift: as for the recording.

    After the call, :attr:`branches` holds, for each operation that chooses a branch elementwise or
    by order (``abs``, ``clamp``, ``max``, ``sort``...), which branch each element took.
    """

    def __init__(self, stops: Sequence[Stop | None], lift: bool = False) -> None:
        super().__init__(lift)
        self.stops = stops
        self.position = 0
        self.branches: list[Tensor] = []

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        operands = operands_of(args, kwargs)
        carrying = is_carrying(operands)
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            branch = branch_taken(name, args, kwargs, out)
        if branch is not None:
            self.branches.append(branch)
        if self.inside or not carrying:
            return out
        with torch._C.DisableTorchFunction():
            made = result_of(name, args, out)
            if not is_stop(made, operands):
                return out
            held = self._held(name, made)
            written = isinstance(made, Tensor) and any(made is operand for operand in operands)
            if not written:
                return held
            # An operation in place: the loss goes on with the tensor, not with what is returned.
            if held is not made:
                with torch.no_grad():
                    made.copy_(held)
            return out

    def _held(self, name: str, out: Any) -> Any:
        if self.position >= len(self.stops):
            raise ReplayMismatch(f"`{name}` stops a value that the recorded call did not")
        stop = self.stops[self.position]
        self.position += 1
        if stop is None:
            return out
        if stop.operation.name != name:
            raise ReplayMismatch(f"`{name}` came where `{stop.operation.name}` was recorded")
        if isinstance(stop.value, Tensor):
            return stop.value.clone()
        return stop.value.copy() if hasattr(stop.value, "copy") else stop.value


def branch_taken(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Which branch of a piecewise operation each element takes; ``None`` for smooth operations."""
    if name in ("abs", "__abs__", "absolute", "relu", "relu_", "sign", "leaky_relu", "elu", "selu",
                "prelu", "threshold", "hardtanh", "celu"):  # fmt: skip
        return args[0] > 0
    if name == "l1_loss":
        return args[0] > args[1]
    if name in ("huber_loss", "smooth_l1_loss"):
        width = kwargs.get("delta", kwargs.get("beta", 1.0))
        distance = args[0] - args[1]
        return (distance > -width).to(torch.int8) + (distance > width)
    if name in ("clamp", "clip", "clamp_", "clamp_min", "clamp_max", "clamp_min_", "clamp_max_"):
        return out == args[0] if not name.endswith("_") else None
    if name in ("maximum", "minimum", "fmax", "fmin"):
        return args[0] > args[1]
    if name in ("max", "min") and len(args) > 1 and isinstance(args[1], Tensor):
        return args[0] > args[1]
    if name in ("max", "min", "sort", "topk", "median", "kthvalue", "cummax", "cummin", "mode",
                "nanmedian"):  # fmt: skip
        return out[1] if isinstance(out, tuple) else args[0] == out
    if name in ("amax", "amin", "aminmax") and isinstance(out, Tensor):
        return args[0].argmax() if name == "amax" else args[0].argmin()
    if name in ("where", "masked_select", "masked_fill") and args and isinstance(args[0], Tensor):
        chosen = args[0] if name == "where" else args[1]
        return chosen.clone() if isinstance(chosen, Tensor) else None
    if name in ("round", "floor", "ceil", "trunc"):
        return out.clone()
    if isinstance(out, Tensor) and out.dim() > 0 and not out.is_floating_point():
        return None if out.is_complex() or name in UNWRITTEN else out.clone()
    return None
