"""One call of a loss as if its inputs lay on another device, on a machine that has none.

Every number stays where it is; only what the loss is told of the device changes. A tensor is known
to lie on the pretended device (the inputs, a module's parameters and buffers, and what is computed
from them), to lie on the CPU (made without ``device=``), or nothing is known of it. Where the first
two meet in an operation that is not among those known to take one device only, torch itself is
asked: it is called with tensors of the ``meta`` device, which have no numbers, for the pretended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lossproof.checks.cpu_tensors import unseen
from lossproof.checks.report import Location
from lossproof.checks.sources import Site, Sources
from lossproof.checks.trace import BINARY, Interceptor, operation_name, tensors_in

Tensor = torch.Tensor

DEVICE = torch.device("cuda", 7)
"""What the loss is told where it asks for the device of its inputs."""

MAKERS = frozenset(
    """
    arange as_tensor asarray bartlett_window blackman_window empty eye full hamming_window
    hann_window kaiser_window linspace logspace normal ones rand randint randn randperm tensor
    tril_indices triu_indices zeros
    """.split()
)
"""Functions that make a tensor on the CPU unless they are told a device."""
LIKE = ("_like",)
_ANSWERS: dict[str, Any] = {"device": DEVICE, "is_cuda": True, "is_cpu": False, "get_device": 7}
# Beside the elementwise ones: operations that every device refuses tensors of another to.
_ONE_DEVICE = BINARY | frozenset(
    """
    matmul __matmul__ __rmatmul__ mm bmm mv dot linear addmm baddbmm einsum cdist conv1d conv2d
    conv3d gather index_select take_along_dim scatter scatter_add masked_fill masked_select
    cat concat stack searchsorted bucketize cross_entropy nll_loss embedding where lerp addcmul
    addcdiv mul_ add_ sub_ div_ __iadd__ __imul__ __isub__ __itruediv__ mse_loss l1_loss kl_div
    smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits
    """.split()
)
_DEVICE_ERRORS = ("is not on the expected device", "same device", "different devices")


Kind = Literal["maker", "attribute", "global", "numpy"]


@dataclass(frozen=True)
class Origin:
    """Where a tensor on the CPU comes from."""

    what: str
    """The function that made it, or the attribute that holds it."""
    location: Location | None
    kind: Kind


@dataclass(frozen=True)
class Meeting:
    """An operation that takes tensors of one device only, and was given tensors of two."""

    operation: str
    site: Site
    origin: Origin
    floating: bool
    """Whether what lay on the CPU holds floating-point numbers, and no index or mask."""


class PretendedDevice(Interceptor):
    """Performs a call as if its inputs lay on :data:`DEVICE`, and notes what would raise there.

    Args:
        sources: tells the user's files from the rest.
        moved: the tensors that lie on the device.
        left: tensors that stay on the CPU, and where they come from.
    """

    def __init__(
        self, sources: Sources, moved: Iterable[Tensor], left: Iterable[tuple[Tensor, Origin]] = ()
    ) -> None:
        super().__init__()
        self.sources = sources
        self.meetings: list[Meeting] = []
        self._kept: dict[int, Tensor] = {}
        self._moved: set[int] = set()
        self._left: dict[int, Origin] = {}
        for tensor, origin in left:
            self._leave(tensor, origin)
        for tensor in moved:
            self._move(tensor)

    def _move(self, tensor: Tensor) -> None:
        self._kept[id(tensor)] = tensor
        self._moved.add(id(tensor))
        self._left.pop(id(tensor), None)

    def _leave(self, tensor: Tensor, origin: Origin) -> None:
        if id(tensor) not in self._moved:
            self._kept[id(tensor)] = tensor
            self._left[id(tensor)] = origin

    def _is_moved(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._moved

    # ------------------------------------------------------------------ operations
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = operation_name(func)
        if name in _ANSWERS and args and self._is_moved(args[0]):
            return _ANSWERS[name]
        if name == "device":  # `torch.device(...)` itself
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        asked, args, kwargs = _without_device(name, args, kwargs)
        if name in ("cuda", "cpu"):
            asked, func = torch.device(name), Tensor.clone
            args, kwargs = args[:1], {}
        operands = [*tensors_in(args), *tensors_in(kwargs)]
        if name in ("numpy", "__array__") and self._is_moved(args[0]):
            with torch._C.DisableTorchFunction():
                self._meet(name, Origin("numpy", None, "numpy"), args[0])
        elif asked is None and name not in ("to", "type_as", "copy_"):
            self._compare(func, name, args, kwargs, operands)
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            self._place(name, asked, args, operands, out)
        return out

    def _place(
        self, name: str, asked: Any, args: tuple[Any, ...], operands: list[Tensor], out: Any
    ) -> None:
        """Note where the results of an operation lie."""
        if asked is not None:
            moved = torch.device(asked).type != "cpu"
        elif name in ("type_as", "to") and len(args) > 1 and isinstance(args[1], Tensor):
            moved = self._is_moved(args[1])
        elif name in ("tensor", "as_tensor", "asarray") and not isinstance(args[0], Tensor):
            moved = False  # a list of tensors is read number by number
        elif name in ("copy_", "set_", "__setitem__"):
            moved = self._is_moved(args[0])
        else:
            moved = any(id(operand) in self._moved for operand in operands)
        for result in tensors_in(out):
            if moved:
                self._move(result)
                continue
            self._moved.discard(id(result))
            self._left.pop(id(result), None)
            origin = self._origin(name, asked, operands)
            if origin is not None:
                self._leave(result, origin)

    def _origin(self, name: str, asked: Any, operands: list[Tensor]) -> Origin | None:
        """Where a result that lies on the CPU comes from; ``None`` where that is not known."""
        if asked is not None:
            return None  # put there by name, such as `.cpu()`: on purpose
        if name in MAKERS:
            return Origin(f"torch.{name}", self.sources.site().location, "maker")
        known = [self._origin_of(operand) for operand in operands]
        return known[0] if known and all(origin is not None for origin in known) else None

    # ------------------------------------------------------------------ meetings
    def _compare(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[Tensor],
    ) -> None:
        if not any(id(operand) in self._moved for operand in operands):
            return
        for operand in operands:
            origin = None if operand.dim() == 0 else self._origin_of(operand)
            if origin is None:
                continue
            with torch._C.DisableTorchFunction():
                if self._refused(func, name, args, kwargs):
                    self._meet(name, origin, operand)
            return

    def _origin_of(self, tensor: Tensor) -> Origin | None:
        """Where a tensor on the CPU comes from; old constructors are looked up in the source."""
        if id(tensor) in self._kept:
            return self._left.get(id(tensor))
        self._kept[id(tensor)] = tensor
        frame = self.sources.frame()
        made = None if frame is None else unseen(frame, tensor)
        if made is not None:
            self._left[id(tensor)] = Origin(f"torch.{made[0]}", made[1], "maker")
        return self._left.get(id(tensor))

    def _meet(self, name: str, origin: Origin, tensor: Tensor) -> None:
        floating = tensor.is_floating_point()
        self.meetings.append(Meeting(name, self.sources.site(), origin, floating))

    def _refused(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether torch refuses the operation on tensors of these two devices."""
        if name in _ONE_DEVICE:
            return True
        if name == "__getitem__" and not self._is_moved(args[0]):
            # An index on the CPU takes from any device, but none on a device from the CPU.
            return any(self._is_moved(index) and index.dim() for index in tensors_in(args[1:]))
        if name.endswith(LIKE) or name.startswith("new_"):
            return False
        try:
            with torch.no_grad():
                func(*_mapped(args, self._as_meta), **_mapped(kwargs, self._as_meta))
        except Exception as error:
            return any(words in str(error) for words in _DEVICE_ERRORS)
        return False

    def _as_meta(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self._moved:
            return tensor.detach().to("meta")
        return tensor.detach().clone()

    def call_function(
        self, cls: type, apply: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = super().call_function(cls, apply, args, kwargs)
        with torch._C.DisableTorchFunction():
            if any(id(operand) in self._moved for operand in tensors_in(args)):
                for result in tensors_in(out):
                    self._move(result)
        return out


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value


def _is_device(value: Any) -> bool:
    if isinstance(value, torch.device):
        return True
    return isinstance(value, str) and value.partition(":")[0] in ("cuda", "cpu", "mps", "xpu")


def _without_device(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The device that an operation is asked for, and its arguments with the CPU in its place."""
    if kwargs.get("device") is not None:
        return kwargs["device"], args, {**kwargs, "device": "cpu"}
    if name == "to":
        asked = next((value for value in args[1:] if _is_device(value)), None)
        return asked, tuple("cpu" if _is_device(value) else value for value in args), kwargs
    return None, args, kwargs
