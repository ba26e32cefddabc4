"""A function of pairs and what it is called with: blocks of rows, and tensors that all pairs share.

All tensors, given and captured, stand in one list in which each is there once. So a gradient has
one place to go to, also where ``x`` is ``y`` or a parameter is used twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor
Rows = Tensor | tuple[Tensor, ...]
"""What belongs to the rows of one side: a tensor (N, ...), or several with the same N."""
Index = slice | Tensor
"""Which rows: neighbours, or those of these numbers."""


@dataclass(frozen=True)
class PairFunction:
    """Where each argument of a function of pairs stands in the list of tensors.

    Args:
        function: from blocks of n rows of ``x`` and m rows of ``y`` to (n, m).
        x: the places of the tensors of ``x``.
        y: the places of the tensors of ``y``.
        tuples: whether ``x`` and ``y`` are given to the function as tuples.
        shared: the places of the tensors that are given whole, by name.
        constants: the other arguments by name.
    """

    function: Callable[..., Tensor]
    x: tuple[int, ...]
    y: tuple[int, ...]
    tuples: tuple[bool, bool]
    shared: Mapping[str, int]
    constants: Mapping[str, Any]

    @property
    def places(self) -> set[int]:
        """Where the tensors stand that are given; behind them stand those that are captured."""
        return {*self.x, *self.y, *self.shared.values()}

    def __call__(self, pieces: Pieces) -> Tensor:
        """The values of the pairs of some rows."""
        x = pieces.x if self.tuples[0] else pieces.x[0]
        y = pieces.y if self.tuples[1] else pieces.y[0]
        values = self.function(x, y, **pieces.shared, **self.constants)
        if not isinstance(values, Tensor):
            raise TypeError(f"`pair_fn` must return a tensor, got {type(values).__name__}")
        wanted = (pieces.x[0].shape[0], pieces.y[0].shape[0])
        if values.shape != wanted:
            raise ValueError(
                "`pair_fn` must return one value for each pair, the shape "
                f"{list(wanted)} for {wanted[0]} rows of `x` and {wanted[1]} of `y`, "
                f"got {list(values.shape)}"
            )
        return values


@dataclass(frozen=True)
class Pieces:
    """The arguments for one block."""

    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]
    shared: Mapping[str, Tensor]
    leaves: tuple[tuple[int, Index | None, Tensor], ...]
    """What requires a gradient: its place in the list, which rows of it (all), and itself."""

    @property
    def wanted(self) -> list[Tensor]:
        """The tensors to differentiate in."""
        return [tensor for _, _, tensor in self.leaves]


def taken(x: Rows, y: Rows, shared: Mapping[str, Any], function: Any) -> tuple[Any, list[Tensor]]:
    """The function with the places of its arguments, and the list of tensors."""
    tensors: list[Tensor] = []
    places: dict[int, int] = {}

    def place(tensor: Tensor) -> int:
        if id(tensor) not in places:
            places[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return places[id(tensor)]

    def side(rows: Rows) -> tuple[int, ...]:
        return tuple(place(one) for one in (rows if isinstance(rows, tuple) else (rows,)))

    call = PairFunction(
        function,
        side(x),
        side(y),
        (isinstance(x, tuple), isinstance(y, tuple)),
        {name: place(one) for name, one in shared.items() if isinstance(one, Tensor)},
        {name: one for name, one in shared.items() if not isinstance(one, Tensor)},
    )
    return call, tensors


def pieces(
    call: PairFunction,
    tensors: Sequence[Tensor],
    rows: Index,
    columns: Index,
    wanted: Sequence[int] = (),
    *,
    attached: bool = False,
) -> Pieces:
    """The arguments for a block.

    Args:
        call: where they stand.
        tensors: the list.
        rows: which rows of ``x``.
        columns: which rows of ``y``.
        wanted: the places of the tensors that a gradient is wanted in. Captured leaves among them
            are used by the function as they are.
        attached: whether the pieces stay parts of the tensors; otherwise they are new leaves.
    """
    leaves: list[tuple[int, Index | None, Tensor]] = []

    def piece(place: int, index: Index | None) -> Tensor:
        tensor = tensors[place] if index is None else tensors[place][index]
        if not attached:
            tensor = tensor.detach()
        if place in wanted:
            if not attached:
                tensor.requires_grad_()
            leaves.append((place, index, tensor))
        return tensor

    x = tuple(piece(place, rows) for place in call.x)
    y = tuple(piece(place, columns) for place in call.y)
    shared = {name: piece(place, None) for name, place in call.shared.items()}
    leaves += [(place, None, tensors[place]) for place in wanted if place not in call.places]
    return Pieces(x, y, shared, tuple(leaves))
