"""A look at a function of pairs: a few pairs, before all are computed.

It tells which leaves the function closes over, and what a pair costs in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lossproof.speed.captured import captured_leaves, now
from lossproof.speed.pair_function import PairFunction, Pieces, pieces
from lossproof.speed.surroundings import surroundings

Tensor = torch.Tensor

SAMPLE = (11, 13)
"""Rows of ``x`` and of ``y`` that are looked at: primes, so that the size of a tensor tells whether
it belongs to the pairs or to the rows."""


@dataclass(frozen=True)
class Look:
    """What a few pairs tell.

    Args:
        captured: leaves that require a gradient and that the function closes over.
        differentiable: whether a gradient is wanted, and there is one.
        bytes: what a pair takes for its value and for what is kept for its gradient.
        dtype: of the values.
    """

    captured: list[Tensor]
    differentiable: bool
    bytes: int
    dtype: torch.dtype


def look(call: PairFunction, tensors: Sequence[Tensor]) -> Look:
    """Compute a few pairs; random generators are left as they were."""
    rows, columns = (min(size, few) for size, few in zip(call.sizes(tensors), SAMPLE, strict=True))
    floating = [i for i, tensor in enumerate(tensors) if tensor.is_floating_point()]
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held, so that no other gets its place; detached, as the graph holds this function: with
        # the tensor itself it would hold itself, and never be freed.
        kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    before = surroundings(tensors)
    with before.again(), torch.enable_grad():
        arguments = pieces(call, tensors, slice(0, rows), slice(0, columns), floating)
        since = now()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            values = call(arguments)
    of_pairs = [t for t in kept.values() if t.numel() and t.numel() % (rows * columns) == 0]
    held = sum(t.numel() * t.element_size() for t in of_pairs) // (rows * columns)
    captured, differentiable = _wanted(tensors, arguments, values, since)
    return Look(captured, differentiable, values.element_size() + held, values.dtype)


def _wanted(
    tensors: Sequence[Tensor], arguments: Pieces, values: Tensor, since: int
) -> tuple[list[Tensor], bool]:
    """The captured leaves, and whether a gradient of anything is wanted.

    A tensor that is given is captured all the same where the function closes over it, too: what it
    is given are pieces.
    """
    if not torch.is_grad_enabled():
        return [], False
    given = {id(leaf): tensors[place] for place, _, leaf in arguments.leaves}
    unasked = [leaf for leaf in arguments.wanted if not given[id(leaf)].requires_grad]
    found = captured_leaves([values], unasked, since, "`pair_fn`")
    return [leaf for leaf in found if id(leaf) not in given], bool(found)
