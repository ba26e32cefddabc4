"""What one round of a loop is given: the elements of the sequences that the loop goes over."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class NotRewrittenError(Exception):
    """The loop has a form that is not turned into ``torch.vmap``."""


@dataclass
class Element:
    """One argument of a round: a sequence, and along which of its axes a round takes one."""

    name: str
    sequence: ast.expr
    axis: int = 0


@dataclass
class Elements:
    """All arguments of a round."""

    listed: list[Element] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The names of the arguments, in order."""
        return [element.name for element in self.listed]

    def of(self, sequence: ast.expr, axis: int, name: str) -> str:
        """The name of the argument for elements of this sequence."""
        text = ast.unparse(sequence)
        for known in self.listed:
            if ast.unparse(known.sequence) == text and known.axis == axis:
                return known.name
        while name in self.names:
            name += "_"
        self.listed.append(Element(name, sequence, axis))
        return name


def name_of(sequence: ast.expr) -> str:
    """What the elements of a sequence are called: as the sequence.

    Example:
        >>> import ast
        >>> name_of(ast.parse("self.logits", mode="eval").body)
        'logits'
    """
    if isinstance(sequence, ast.Name):
        return sequence.id
    if isinstance(sequence, ast.Attribute):
        return sequence.attr
    return "item"


def iterated(target: ast.expr, iterated_over: ast.expr, torch: str) -> tuple[Elements, str | None]:
    """The elements that the head of a loop names, and the name of its index, if it has one.

    Raises:
        NotRewrittenError: the loop goes over something else than tensors or a range from 0.
    """
    elements = Elements()
    call = iterated_over if isinstance(iterated_over, ast.Call) else None
    called = ast.unparse(call.func) if call is not None else ""
    if call is not None and called == "range" and isinstance(target, ast.Name):
        if len(call.args) != 1:
            raise NotRewrittenError("a range that does not begin at 0 in steps of 1")
        return elements, target.id
    if call is not None and called == "zip" and isinstance(target, ast.Tuple):
        _named(elements, target.elts, call.args)
        return elements, None
    if call is not None and called == "enumerate" and isinstance(target, ast.Tuple):
        index, item = target.elts
        _named(elements, [item], call.args)
        if not isinstance(index, ast.Name):
            raise NotRewrittenError("an index that is no name")
        return elements, index.id
    if call is not None and called in ("reversed", "sorted", "range"):
        raise NotRewrittenError(f"a loop over `{called}`")
    _named(elements, [target], [iterated_over])
    return elements, None


def _named(elements: Elements, targets: Sequence[ast.expr], over: Sequence[ast.expr]) -> None:
    if len(targets) != len(over) or not all(isinstance(one, ast.Name) for one in targets):
        raise NotRewrittenError("elements that are taken apart in the head of the loop")
    for target, sequence in zip(targets, over, strict=True):
        assert isinstance(target, ast.Name)
        elements.of(sequence, 0, target.id)


class Indexed(ast.NodeTransformer):
    """Puts the element of a round in the place of ``x[i]`` and ``x[0, i]``.

    Args:
        index: the name of the loop's index.
        elements: what the round is given; what is found is added to it.
        own: the names that the body itself assigns: to index those is no element.
        taken: the names that mean something else in the body.
    """

    def __init__(
        self, index: str, elements: Elements, own: Iterable[str], taken: Iterable[str]
    ) -> None:
        self.index = index
        self.elements = elements
        self.own = set(own)
        self.taken = set(taken)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        sequence = node.value
        inner = {one.id for one in ast.walk(sequence) if isinstance(one, ast.Name)}
        if isinstance(node.ctx, ast.Load) and not inner & self.own and self.index not in inner:
            places = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
            at = [k for k, place in enumerate(places) if self._is_index(place)]
            if len(at) == 1 and all(map(_keeps_order, places[: at[0]])):
                name = name_of(sequence)
                name = f"{name}_{self.index}" if name in self.taken else name
                element = ast.Name(self.elements.of(sequence, at[0], name), ast.Load())
                rest = [self.visit(place) for place in places if not self._is_index(place)]
                return _indexed(element, rest)
        self.generic_visit(node)
        return node

    def _is_index(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self.index


def _keeps_order(place: ast.expr) -> bool:
    """Whether what stands before the index is one axis: a number or a slice."""
    return isinstance(place, ast.Slice) or (
        isinstance(place, ast.Constant) and isinstance(place.value, int)
    )


def _indexed(element: ast.expr, rest: list[ast.expr]) -> ast.expr:
    while rest and ast.unparse(rest[-1]) == ":":
        rest = rest[:-1]
    if not rest:
        return element
    index = rest[0] if len(rest) == 1 else ast.Tuple(rest, ast.Load())
    return ast.Subscript(element, index, ast.Load())
