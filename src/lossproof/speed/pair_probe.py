"""A look at a function of pairs: a few pairs, before all are computed.

It tells which leaves the function closes over, and what a pair costs in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lossproof.speed.captured import captured_leaves, now
from lossproof.speed.pair_function import PairFunction, pieces
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
        differentiable: whether the values have a gradient at all.
        bytes: what a pair takes for its value and for what is kept for its gradient.
        dtype: of the values.
    """

    captured: list[Tensor]
    differentiable: bool
    bytes: int
    dtype: torch.dtype


def look(call: PairFunction, tensors: Sequence[Tensor], sizes: tuple[int, int]) -> Look:
    """Compute a few pairs; random generators are left as they were."""
    rows, columns = (min(size, few) for size, few in zip(sizes, SAMPLE, strict=True))
    wanted = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other gets its place
        return tensor

    before = surroundings(tensors)
    with before.again(), torch.enable_grad():
        arguments = pieces(call, tensors, slice(0, rows), slice(0, columns), wanted)
        since = now()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            values = call(arguments)
    given = [*tensors, *arguments.wanted]
    captured = captured_leaves([values], given, since, "`pair_fn`")
    pairs = rows * columns
    of_pairs = [t for t in kept.values() if t.numel() and t.numel() % pairs == 0]
    held = sum(t.numel() * t.element_size() for t in of_pairs) // pairs
    return Look(captured, values.requires_grad, values.element_size() + held, values.dtype)
