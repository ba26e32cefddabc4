"""Which calls of a loss are alike, so that what is fastest for one is fastest for the others."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch._dynamo
from torch import nn
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lossproof.write.arguments import transformed

Tensor = torch.Tensor
SMALL = 1 << 12
_BY_VALUE = (bool, str, type(None))


@dataclass(frozen=True)
class Kind:
    """What a call of a loss looks like.

    Attributes:
        form: dtypes, devices, numbers of axes and the like, and options that are words.
        sizes: for each tensor, how many elements it has, to a power of four.
    """

    form: Hashable
    sizes: tuple[int, ...]

    def far_from(self, other: Kind) -> int:
        """How different the sizes are."""
        return sum(abs(a - b) for a, b in zip(self.sizes, other.sizes, strict=True))


class Call:
    """A call of a loss, taken apart.

    Args:
        arguments: the arguments in their order.
        options: those that were given by name.

    Attributes:
        leaves: all that it is given, whatever lists and mappings it stands in.
        structure: how it is put together again.
        tensors: those among the leaves.
    """

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.leaves: Sequence[Any] = [*arguments, *options.values()]
        self.structure: Hashable = (len(arguments), *options)
        self._nested = any(isinstance(leaf, list | tuple | dict) for leaf in self.leaves)
        if self._nested:  # rare, and slow to take apart
            self.leaves, self.structure = pytree.tree_flatten((arguments, options))
        self.tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def _put_together(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._nested:
            found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(
                leaves, cast(pytree.TreeSpec, self.structure)
            )
            return found
        count, *names = cast(tuple[Any, ...], self.structure)
        return tuple(leaves[:count]), dict(zip(names, leaves[count:], strict=True))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of the tensors."""
        return tuple(tuple(tensor.shape) for tensor in self.tensors)

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        devices = [tensor.device for tensor in self.tensors]
        return next((one for one in devices if one.type != "cpu"), torch.device("cpu"))

    @property
    def small(self) -> bool:
        """Whether most of the time goes into calling programs, of which one is less than two."""
        return sum(tensor.numel() for tensor in self.tensors) < SMALL

    def kind(self, training: bool) -> Kind:
        """What it looks like; ``training`` is the mode of the Module."""
        tensors = self.tensors
        device = tensors[0].device.type if tensors else "cpu"
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        form = (
            *map(_form, self.leaves), self.structure, training, torch.is_grad_enabled(), autocast
        )  # fmt: skip
        return Kind(form, tuple([(tensor.numel().bit_length() + 1) // 2 for tensor in tensors]))

    def cut_off(self) -> tuple[Sequence[Any], dict[str, Any], list[Tensor]]:
        """The same call with tensors of the same memory that have no past.

        Returns:
            The arguments, the options, and the tensors among them that require a gradient.
        """
        made: dict[int, Tensor] = {}
        for tensor in self.tensors:
            if id(tensor) not in made:
                made[id(tensor)] = tensor.detach().requires_grad_(tensor.requires_grad)
        arguments, options = self._put_together([made.get(id(leaf), leaf) for leaf in self.leaves])
        return arguments, options, [tensor for tensor in made.values() if tensor.requires_grad]


def _form(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return (leaf.dtype, leaf.device, leaf.ndim, leaf.requires_grad, leaf.is_contiguous())
    kind: type = type(leaf)
    return (kind, leaf) if isinstance(leaf, _BY_VALUE) else kind


def looked_into(tensors: Sequence[Tensor]) -> bool:
    """Whether somebody looks for the operations of a loss, not for its value.

    Other compilers, transforms, forward mode, modes that record operations, types of tensors with
    operations of their own, who has turned ``torch.compile`` off, and who looks for an anomaly.
    """
    return (
        torch.compiler.is_compiling()
        or _turned_off()
        or torch.is_anomaly_enabled()
        or torch._C._get_tracing_state() is not None
        or transformed()
        or forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
        or any(type(mode) is not DeviceContext for mode in _function_modes())
        or any(type(tensor) not in {Tensor, nn.Parameter} for tensor in tensors)
    )


def _function_modes() -> Sequence[Any]:
    modes: Sequence[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return modes


def _turned_off() -> bool:
    stance = getattr(torch._dynamo.eval_frame, "_stance", None)  # since torch 2.6
    return bool(torch._dynamo.config.disable) or getattr(stance, "stance", "") == "force_eager"


def out_of_reach(tensors: Sequence[Tensor]) -> bool:
    """Whether there is nothing to gain, or nothing to measure: no numbers at all, or no host."""
    return any(
        not tensor.numel()
        or tensor.is_meta
        or tensor.layout is not torch.strided
        or tensor.is_inference()
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
        for tensor in tensors
    )
