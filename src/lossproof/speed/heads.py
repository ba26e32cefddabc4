"""What stands between the hidden states and the loss: the output layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from lossproof.errors import UnsupportedGraphError
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor
AnyHead = nn.Module | Tensor | Callable[[Tensor], Tensor]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Body:
    """A Module, or a function, of rows.

    Its parameters stand apart: whoever runs it says what stands in their place.
    """

    run: nn.Module | Callable[[Tensor], Tensor]
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    """What stands behind the names."""
    name: str = "head"
    """What it is called in an error."""

    def output(self, rows: Tensor, own: Sequence[Tensor]) -> Tensor:
        """What it makes of the rows, with these tensors as its own."""
        found: Any
        if self.names:
            assert isinstance(self.run, nn.Module)
            replaced = dict(zip(self.names, own, strict=True))
            found = torch.func.functional_call(self.run, replaced, (rows,))
        else:
            found = self.run(rows)
        if not isinstance(found, Tensor):
            raise TypeError(f"`{self.name}` must give a tensor, got {type(found).__name__}")
        if not found.ndim or len(found) != len(rows):
            raise ValueError(
                f"`{self.name}` must give a row for each row, "
                f"got {list(found.shape)} for {list(rows.shape)}"
            )
        return found


@dataclass(frozen=True)
class LinearHead:
    """A linear layer, after a body or alone: its gradients are products that need no graph."""

    body: Body | None
    weight: Tensor
    bias: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The weight, the bias where there is one, and those of the body."""
        last = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return last if self.body is None else (*last, *self.body.tensors)

    @property
    def last(self) -> int:
        """How many of the tensors are those of the linear layer."""
        return 1 if self.bias is None else 2

    def features(self, rows: Tensor, own: Sequence[Tensor]) -> Tensor:
        """What the linear layer is given."""
        return rows if self.body is None else self.body.output(rows, own[self.last :])

    def logits(self, rows: Tensor, own: Sequence[Tensor]) -> Tensor:
        return nn.functional.linear(self.features(rows, own), *own[: self.last])


@dataclass(frozen=True)
class AnyBodyHead:
    """Any other head, differentiated by autograd."""

    body: Body

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.body.tensors

    def logits(self, rows: Tensor, own: Sequence[Tensor]) -> Tensor:
        return self.body.output(rows, own)


Head = LinearHead | AnyBodyHead


def usable_head(head: Any, name: str = "head") -> None:
    """Refuse what is no head; nothing is computed.

    Raises:
        TypeError: it is no Module, tensor or function.
        ValueError: it is a tensor that is no matrix of floating-point numbers.
    """
    if isinstance(head, Tensor):
        if head.ndim != 2 or not head.is_floating_point():
            raise ValueError(
                f"`{name}` must be a matrix (C, H) of floating-point numbers where it is a tensor, "
                f"got {head.dtype} of shape {list(head.shape)}"
            )
    elif not callable(head):
        raise TypeError(
            f"`{name}` must be a Module, a matrix or a function, got {type(head).__name__}"
        )


def head_of(head: Any, name: str = "head") -> Head:
    """Read a head as it is now; the weight of a parametrized layer is computed once, here.

    Raises:
        TypeError, ValueError: it is no head.
        UnsupportedGraphError: its parameters are sharded, and it is no linear layer.
    """
    usable_head(head, name)
    if isinstance(head, Tensor):
        return LinearHead(None, head, None)
    if isinstance(head, nn.Embedding):
        return LinearHead(None, head.weight, None)
    if isinstance(head, nn.Linear) and _is_ordinary(head, nn.Linear):
        return _linear(None, head)
    if isinstance(head, nn.Sequential) and _is_ordinary(head, nn.Sequential) and len(head):
        last = head[-1]
        if isinstance(last, nn.Linear) and _is_ordinary(last, nn.Linear):
            return _linear(_body(head[:-1], name), last) if len(head) > 1 else _linear(None, last)
    return AnyBodyHead(_body(head, name))


def _linear(body: Body | None, layer: nn.Linear) -> LinearHead:
    return LinearHead(body, layer.weight, layer.bias)


def _body(run: Any, name: str) -> Body:
    if not isinstance(run, nn.Module):
        return Body(run, (), (), name)
    parameters = dict(run.named_parameters())
    if any(map(is_sharded, parameters.values())):
        raise UnsupportedGraphError(
            f"`{name}` is a {type(run).__name__} whose parameters are sharded by itself: let the "
            "outermost `fully_shard` hold them, which keeps them whole until the backward pass, or "
            "make its last layer an `nn.Linear` and shard that alone"
        )
    return Body(run, tuple(parameters), tuple(parameters.values()), name)


def _is_ordinary(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling it does what its kind does, and nothing else."""
    if type(module).forward is not kind.forward:
        return False
    weight = module._parameters.get("weight")  # to look at a parametrized one is to compute it
    if isinstance(module, nn.Linear) and weight is not None and is_sharded(weight):
        return True  # the hooks are those that gather the shards
    hooked = any(getattr(module, name) for name in _HOOKS)
    everywhere = torch_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return not hooked and not everywhere
