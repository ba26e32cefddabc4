"""What a call was given: its tensors by name, and which of their rows are samples of the batch."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lossproof.checks.trace import tensors_in
from lossproof.watcher.record import Call

Tensor = torch.Tensor

MOST_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class Given:
    """A tensor that a call was given, and what it is called there: ``target``, ``batch['x']``."""

    name: str
    tensor: Tensor


def given_tensors(call: Call) -> list[Given]:
    """Every tensor among the arguments of a call."""
    found: list[Given] = []
    for name, value in _arguments(call):
        found += [Given(path, tensor) for path, tensor in _within(name, value)]
    return found


def _arguments(call: Call) -> Iterator[tuple[str, Any]]:
    """The arguments by the names that the function gives them."""
    parameters = _parameters(call.function)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "argument")
    for place, value in enumerate(call.args):
        if place < len(positional):
            yield positional[place].name, value
        else:
            yield f"{rest}[{place - len(positional)}]", value
    yield from call.kwargs.items()


def _parameters(function: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    owner = getattr(function, "__self__", None)
    handwritten = isinstance(owner, type) and issubclass(owner, torch.autograd.Function)
    target = function.forward if isinstance(function, nn.Module) else function
    if handwritten:
        target = owner.forward  # type: ignore[union-attr]
    try:
        found = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return ()
    return found[1:] if handwritten else found


def _within(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _within(f"{path}[{place}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _within(f"{path}[{key!r}]", item)


def mapped(value: Any, swap: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with another tensor in the place of each; nothing is shared but the rest.

    As :func:`~lossproof.checks.trace.tensors_in`, it looks into lists, tuples and dictionaries.
    """
    if isinstance(value, Tensor):
        return swap(value)
    if isinstance(value, tuple):
        items = [mapped(item, swap) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [mapped(item, swap) for item in value]
    if isinstance(value, dict):
        other = copy.copy(value)
        for key, item in value.items():
            other[key] = mapped(item, swap)
        return other
    return value


def batch_size(calls: Iterable[Call]) -> int | None:
    """How many samples the first of these calls got: the first dimension of its first tensor."""
    for call in calls:
        for tensor in tensors_in([call.args, call.kwargs]):
            if tensor.dim():
                return int(tensor.shape[0])
    return None


def rows_of(bad: Tensor, size: int | None) -> list[int] | None:
    """The samples that hold a true element, or ``None`` where no dimension is the batch's.

    Args:
        bad: a tensor of booleans, such as where a result is not finite.
        size: how many samples there are. A first dimension that is a multiple of it is taken for
            a batch of sequences or of pixels that was made flat.
    """
    if size is None or size < 1 or bad.dim() == 0:
        return None
    lengths = list(bad.shape)
    if size in lengths:
        axis, group = lengths.index(size), 1
    elif lengths[0] > size and lengths[0] % size == 0:
        axis, group = 0, lengths[0] // size
    else:
        return None
    along = bad.movedim(axis, 0).reshape(lengths[axis], -1).any(1)
    return sorted({int(row) // group for row in along.nonzero().flatten().tolist()})


def row_sizes(values: Tensor, size: int | None) -> Tensor | None:
    """How large the values of each sample are together, where the first dimension is the batch's.

    The largest magnitude of the sample is used and not a sum, which may overflow.
    """
    if size is None or values.dim() == 0 or values.shape[0] == 0 or values.shape[0] % size:
        return None
    if not values.is_floating_point() or values.is_sparse or values.numel() == 0:
        return None
    return values.detach().double().abs().reshape(size, -1).amax(1).cpu()
