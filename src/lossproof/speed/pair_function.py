"""A function of pairs and what it is called with: blocks of rows, and tensors that all pairs share.

All tensors, given and captured, stand in one list in which each is there once. So a gradient has
one place to go to, also where ``x`` is ``y`` or a parameter is used twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.write.arguments import same_device

Tensor = torch.Tensor
Rows = Tensor | tuple[Tensor, ...]
"""What belongs to the rows of one side: a tensor (N, ...), or several with the same N."""
Index = slice | Tensor
"""Which rows: neighbours, or those of these numbers."""


@dataclass(frozen=True)
class Side:
    """Where the tensors of ``x`` or of ``y`` stand in the list.

    Args:
        places: of each tensor.
        like: what was given, for the form that the function gets them in.
    """

    places: tuple[int, ...]
    like: Rows

    def given(self, parts: Sequence[Tensor]) -> Rows:
        """The tensors in the form of what was given: a tensor, a tuple, a named tuple."""
        if not isinstance(self.like, tuple):
            return parts[0]
        named = getattr(self.like, "_make", tuple)
        rows: Rows = named(parts)
        return rows


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


@dataclass(frozen=True)
class PairFunction:
    """Where each argument of a function of pairs stands in the list of tensors.

    Args:
        function: from blocks of n rows of ``x`` and m rows of ``y`` to (n, m).
        x: the tensors of ``x``.
        y: the tensors of ``y``.
        shared: the places of the tensors that are given whole, by name.
        constants: the other arguments by name.
    """

    function: Callable[..., Tensor]
    x: Side
    y: Side
    shared: Mapping[str, int]
    constants: Mapping[str, Any]

    @property
    def places(self) -> set[int]:
        """Where the tensors stand that are given; behind them stand those that are captured."""
        return {*self.x.places, *self.y.places, *self.shared.values()}

    def sizes(self, tensors: Sequence[Tensor]) -> tuple[int, int]:
        """The numbers of rows of ``x`` and ``y``."""
        return tensors[self.x.places[0]].shape[0], tensors[self.y.places[0]].shape[0]

    def __call__(self, pieces: Pieces) -> Tensor:
        """The values of the pairs of some rows, see :func:`values_of_pairs`."""
        x, y = self.x.given(pieces.x), self.y.given(pieces.y)
        values = self.function(x, y, **pieces.shared, **self.constants)
        return values_of_pairs(values, (pieces.x[0].shape[0], pieces.y[0].shape[0]))


def values_of_pairs(values: Any, sizes: tuple[int, int]) -> Tensor:
    """What a function returned for blocks of these sizes, if it is one value for each pair.

    Raises:
        TypeError: it is no tensor of real numbers.
        ValueError: it has another shape.
    """
    if not isinstance(values, Tensor) or values.is_complex():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"`pair_fn` must return a tensor of real numbers, got {got}")
    if tuple(values.shape) != tuple(sizes):
        raise ValueError(
            "`pair_fn` must return one value for each pair, the shape "
            f"[{sizes[0]}, {sizes[1]}] for {sizes[0]} rows of `x` and {sizes[1]} of `y`, "
            f"got {list(values.shape)}"
        )
    return values


def rows(name: str, value: Any) -> tuple[Tensor, ...]:
    """The tensors of one side, each with the same number of rows.

    Raises:
        TypeError: it is neither a tensor nor a tuple of tensors.
        ValueError: there is none, one has no axis of rows, or their numbers or devices differ.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, Tensor) for part in parts):
        got = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"`{name}` must be a tensor or a tuple of tensors, got {got}")
    if not parts:
        raise ValueError(f"`{name}` must hold a tensor, got an empty tuple")
    shapes = [list(part.shape) for part in parts]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"all tensors of `{name}` must have the same first axis, that of the rows, got "
            f"the shapes {', '.join(map(str, shapes))}"
        )
    for part in parts[1:]:
        same_device(parts[0], part, (f"{name}[0]", name))
    return parts


def taken(
    function: Callable[..., Tensor], x: Any, y: Any, shared: Mapping[str, Any]
) -> tuple[PairFunction, list[Tensor]]:
    """The function with the places of its arguments, and the list of tensors."""
    tensors: list[Tensor] = []
    places: dict[int, int] = {}

    def place(tensor: Tensor) -> int:
        if id(tensor) not in places:
            places[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return places[id(tensor)]

    call = PairFunction(
        function,
        Side(tuple(place(part) for part in rows("x", x)), x),
        Side(tuple(place(part) for part in rows("y", y)), y),
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

    x = tuple(piece(place, rows) for place in call.x.places)
    y = tuple(piece(place, columns) for place in call.y.places)
    shared = {name: piece(place, None) for name, place in call.shared.items()}
    leaves += [(place, None, tensors[place]) for place in wanted if place not in call.places]
    return Pieces(x, y, shared, tuple(leaves))
