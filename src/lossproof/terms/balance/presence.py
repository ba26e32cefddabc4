"""A balancer for some of its terms only: the others are absent in this step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lossproof.terms.balance.base import Balancer

Tensor = torch.Tensor
Axes = Mapping[str, tuple[int, ...]]


def axes_of_terms(state: Mapping[str, Tensor], larger: Mapping[str, Tensor], count: int) -> Axes:
    """The axes of the state that have one entry for each term: those that grow with their number.

    Args:
        state: the state for ``count`` terms.
        larger: the state for one term more.
        count: how many terms there are.

    Raises:
        ValueError: an axis depends on the number of terms in another way.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in state.items():
        sizes = list(zip(tensor.shape, larger[name].shape, strict=True))
        axes = [axis for axis, (size, more) in enumerate(sizes) if more != size]
        if any(sizes[axis] != (count, count + 1) for axis in axes):
            raise ValueError(
                f"the state `{name}` of shape {list(tensor.shape)} has no entry for each of the "
                f"{count} terms, so that no term may be left out: override `axes_of_state`"
            )
        found[name] = tuple(axes)
    return found


@contextmanager
def only(balancer: Balancer, names: Sequence[str]) -> Iterator[None]:
    """Inside, the balancer is one for these terms alone, with their part of its state.

    What it makes of that part is put back at the end; the part of the others stays as it was. After
    an exception everything is as before.
    """
    everyone = balancer.names
    assert everyone is not None
    if tuple(names) == everyone:
        yield
        return
    index = torch.tensor([everyone.index(name) for name in names], device=balancer.weights.device)
    axes = balancer.axes_of_state()
    buffers, parameters = dict(balancer._buffers), dict(balancer._parameters)
    try:
        balancer.names = tuple(names)
        for held, kept in ((balancer._buffers, buffers), (balancer._parameters, parameters)):
            for name, tensor in kept.items():
                if tensor is not None:
                    with torch.enable_grad():  # what is learned is so where the user has it off
                        part = _part(tensor, axes.get(name, ()), index)
                    held[name] = part  # type: ignore[assignment]
        yield
        for name, tensor in buffers.items():
            changed = balancer._buffers[name]
            if tensor is not None and changed is not None:
                buffers[name] = _with_part(tensor, axes.get(name, ()), index, changed)
    finally:
        balancer.names = everyone
        balancer._buffers.update(buffers)
        balancer._parameters.update(parameters)


def _part(tensor: Tensor, axes: Sequence[int], index: Tensor) -> Tensor:
    part = tensor.clone()
    for axis in axes:
        part = part.index_select(axis, index.to(tensor.device))
    return part


def _with_part(tensor: Tensor, axes: Sequence[int], index: Tensor, part: Tensor) -> Tensor:
    if not axes:
        return part
    first, *others = axes
    rows = part
    if others:
        rows = _with_part(_part(tensor, [first], index), others, index, part)
    return tensor.index_copy(first, index.to(tensor.device), rows.to(tensor))
