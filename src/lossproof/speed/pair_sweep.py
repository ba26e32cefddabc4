"""Reductions over all pairs, a block of pairs at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lossproof.speed.pair_function import PairFunction, pieces
from lossproof.speed.row_reductions import RowReduction, State
from lossproof.speed.surroundings import Surroundings, drawn_between, surroundings

Tensor = torch.Tensor


@dataclass(frozen=True)
class Sweep:
    """What is computed.

    Args:
        call: the function of pairs.
        reduction: how rows are reduced.
        dims: the axes of the matrix that are reduced, one result for each.
        sizes: the numbers of rows of ``x`` and of ``y``.
        block: how many of them go into a block.
        dtype: of the values of the pairs.
    """

    call: PairFunction
    reduction: RowReduction
    dims: tuple[int, ...]
    sizes: tuple[int, int]
    block: tuple[int, int]
    dtype: torch.dtype

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """The blocks of the matrix, row by row."""
        for rows in slices(self.sizes[0], self.block[0]):
            for columns in slices(self.sizes[1], self.block[1]):
                yield rows, columns


def slices(size: int, step: int) -> Iterator[slice]:
    """All numbers below ``size``, ``step`` at a time."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def reduced(sweep: Sweep, tensors: Sequence[Tensor]) -> tuple[list[State], Surroundings, bool]:
    """The final states; what they were computed with, and whether random numbers were drawn."""
    before = surroundings(tensors)
    states: list[State] = []
    with before.autocast_again():
        for rows, columns in sweep.blocks():
            values = sweep.call(pieces(sweep.call, tensors, rows, columns))
            for k, dim in enumerate(sweep.dims):
                along, first = (rows, columns.start) if dim else (columns, rows.start)
                state = sweep.reduction.state(values, dim, first)
                if len(states) == k:
                    states.append(tuple(s.new_empty(sweep.sizes[1 - dim]) for s in state))
                _put(states[k], along, state, sweep.reduction, is_first=first == 0)
    after = surroundings(tensors)
    return states, before, drawn_between(before, after)


def _put(
    whole: State, along: slice, state: State, reduction: RowReduction, *, is_first: bool
) -> None:
    if not is_first:
        state = reduction.joined(tuple(one[along] for one in whole), state)
    for one, part in zip(whole, state, strict=True):
        one[along] = part
