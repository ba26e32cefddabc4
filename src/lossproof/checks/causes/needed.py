"""A factor or a term that makes a value what it should have been.

Where the gradient depends linearly on a value, the value it should have had can be computed. What
it lacks is then looked up among the variables at hand, simple functions of them, and pairs.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.causes.cause import Kind
from lossproof.checks.causes.edits import Edit, Piece, broadcasts, replacement_kind

Tensor = torch.Tensor

CLOSE = 1e-9
VARIABLES = 14
"""So many of the pieces are combined in pairs."""

FORMS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("{}", lambda v: v),
    ("(1 - {})", lambda v: 1 - v),
    ("(1 + {})", lambda v: 1 + v),
    ("{}**2", lambda v: v * v),
    ("{}**3", lambda v: v**3),
    ("torch.sqrt({})", torch.sqrt),
    ("torch.exp({})", torch.exp),
    ("torch.exp(-{})", lambda v: torch.exp(-v)),
    ("torch.log({})", torch.log),
    ("torch.sigmoid({})", torch.sigmoid),
    ("torch.sigmoid(-{})", lambda v: torch.sigmoid(-v)),
    ("torch.sign({})", torch.sign),
    ("torch.tanh({})", torch.tanh),
    ("torch.abs({})", torch.abs),
    ("{0} * (1 - {0})", lambda v: v * (1 - v)),
    ("(1 - {}**2)", lambda v: 1 - v * v),
)
PAIRS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("({} - {})", lambda a, b: a - b),
    ("({} + {})", lambda a, b: a + b),
    ("({} * {})", lambda a, b: a * b),
    ("({} / {})", lambda a, b: a / b),
)
JOINS: tuple[tuple[type, Kind, Callable[[Tensor, Tensor], Tensor]], ...] = (
    (ast.Mult, Kind.MISSING_FACTOR, lambda needed, present: needed / present),
    (ast.Div, Kind.MISSING_FACTOR, lambda needed, present: present / needed),
    (ast.Add, Kind.MISSING_TERM, lambda needed, present: needed - present),
    (ast.Sub, Kind.MISSING_TERM, lambda needed, present: present - needed),
)
APPLY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Mult: lambda x, y: x * y,
    ast.Div: lambda x, y: x / y,
    ast.Add: lambda x, y: x + y,
    ast.Sub: lambda x, y: x - y,
}


@dataclass(eq=False)
class Needed:
    """What an expression is and what it should have been, at one point."""

    present: Tensor
    needed: Tensor
    matters: Tensor
    """Where its value matters to the gradient at all."""


class Pool:
    """The pieces, simple functions of them and pairs, as the rows of one matrix for each point.

    Args:
        pieces: what there is to make up for a difference.
        shapes: the shape of the values that are to be explained, at each point.
    """

    def __init__(self, pieces: Sequence[Piece], shapes: Sequence[torch.Size]) -> None:
        usable = [
            piece
            for piece in pieces
            if all(broadcasts(v, s) for v, s in zip(piece.values, shapes, strict=True))
        ]
        single = [(pattern, (p,), f) for p in usable for pattern, f in FORMS]
        pairs = [
            (pattern, (one, other), f)
            for one, other in itertools.permutations(usable[:VARIABLES], 2)
            for pattern, f in PAIRS
        ]
        self.forms: list[tuple[str, tuple[Piece, ...], Callable[..., Tensor]]] = [*single, *pairs]
        self.values = [self._rows(s, shape) for s, shape in enumerate(shapes)]

    def _rows(self, s: int, shape: torch.Size) -> Tensor:
        size = shape.numel()
        rows = torch.full((len(self.forms), size), torch.nan)
        for row, (_, parts, function) in zip(rows, self.forms, strict=True):
            value = function(*(_as_tensor(part.values[s]) for part in parts))
            row.copy_(value.expand(shape).reshape(size))
        return rows

    def find(self, wanted: Sequence[Tensor], matters: Sequence[Tensor]) -> Iterator[int]:
        """The rows that are equal to ``wanted``, at every point, where that matters."""
        equal = torch.ones(len(self.forms), dtype=torch.bool)
        for values, want, mask in zip(self.values, wanted, matters, strict=True):
            flat = mask.flatten()
            difference = (values[:, flat] - want.flatten()[flat]).abs().amax(1)
            equal &= difference <= CLOSE * float(want.flatten()[flat].abs().max())
        yield from equal.nonzero().flatten().tolist()

    def piece(self, row: int, points: int) -> Piece:
        """A row as an expression."""
        pattern, parts, function = self.forms[row]
        texts = [_bracketed(part) for part in parts]
        node = ast.parse(pattern.format(*texts), mode="eval").body
        values = [function(*(_as_tensor(p.values[s]) for p in parts)) for s in range(points)]
        until = min(part.until for part in parts)
        return Piece(node, values, max(part.line for part in parts), until)


def explained_value(
    number: int, node: ast.expr, needed: Sequence[Needed], pool: Pool
) -> Iterator[Edit]:
    """The changes that turn the present value of an expression into the needed one.

    Args:
        number: the expression's number.
        node: the expression.
        needed: its value, and what it should have been, at each point.
        pool: what there is to make up for the difference.
    """
    matters = [at.matters for at in needed]
    for op, kind, lack in JOINS:
        lacking = [lack(at.needed, at.present) for at in needed]
        if not all(bool(torch.isfinite(v[m]).all()) for v, m in zip(lacking, matters, strict=True)):
            continue
        for row in pool.find(lacking, matters):
            piece = pool.piece(row, len(needed))
            if piece.at_hand(node):
                yield Edit(
                    number, kind,
                    lambda s, x, p=piece, f=APPLY[op]: f(x, p.values[s]),
                    ast.BinOp(node, op(), piece.node),
                )  # fmt: skip
    for row in pool.find([at.needed for at in needed], matters):
        piece = pool.piece(row, len(needed))
        if piece.at_hand(node):
            kind = replacement_kind(node, piece.node)
            yield Edit(number, kind, lambda s, x, p=piece: p.values[s], piece.node)


def _bracketed(piece: Piece) -> str:
    plain = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)
    return piece.text if isinstance(piece.node, plain) else f"({piece.text})"


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
