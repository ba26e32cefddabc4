"""The changes that undo the common mistakes, for every kind of expression.

An edit says what is computed instead (:attr:`Edit.instead`, quick to try) and how the source reads
then (:attr:`Edit.rewritten`, to be shown and to be tried for certain).
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.causes.cause import Kind
from lossproof.checks.causes.instrument import BINARY

Tensor = torch.Tensor


@dataclass(eq=False)
class Edit:
    """One change of one expression."""

    number: int
    """The expression, as :class:`~lossproof.checks.causes.instrument.Instrumented` counts."""
    kind: Kind
    instead: Callable[..., Any]
    """Computes the new value from the scene's number and the operands."""
    rewritten: ast.expr


@dataclass(eq=False)
class Piece:
    """An expression that is at hand in backward, with its value at every point."""

    node: ast.expr
    values: list[Any]
    line: int
    """From which line on it can be used."""
    until: int = 10**9
    """Up to which line: a variable may be assigned anew there."""

    def at_hand(self, node: ast.expr) -> bool:
        """Whether it can be written where an expression stands."""
        return self.line <= node.lineno <= self.until

    @functools.cached_property
    def text(self) -> str:
        """The expression as it is written."""
        return ast.unparse(self.node)


OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add, ast.Mult, ast.Div),
    ast.Mult: (ast.Div, ast.Add, ast.Sub, ast.Pow), ast.Div: (ast.Mult, ast.Sub),
    ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,),
}  # fmt: skip
COMPARISONS = (ast.Lt, ast.Gt, ast.LtE, ast.GtE, ast.Eq, ast.NotEq)
SUMS = ("sum", "mean")
AXIS_FIRST = frozenset(
    """
    sum mean prod amax amin unsqueeze squeeze flip cumsum softmax log_softmax logsumexp transpose
    permute movedim size gather scatter index_add_ index_select select narrow expand argmax argmin
    """.split()
)
"""Methods whose first arguments are axes."""
RELATED: tuple[tuple[str, ...], ...] = (
    ("sum", "mean", "amax", "amin", "prod"), ("max", "min"), ("maximum", "minimum"),
    ("exp", "log", "expm1", "log1p"), ("sigmoid", "tanh", "relu", "softplus", "logsigmoid"),
    ("sin", "cos"), ("sinh", "cosh", "tanh"), ("sign", "abs", "neg", "tanh"),
    ("softmax", "log_softmax", "sigmoid"), ("square", "sqrt", "rsqrt", "reciprocal"),
    ("ones_like", "zeros_like"), ("ones", "zeros"), ("cumsum", "logcumsumexp", "cumprod"),
    ("floor", "ceil", "round"), ("argmax", "argmin"), ("unsqueeze", "squeeze"),
)  # fmt: skip
CONSTANTS: tuple[float, ...] = (2, 0.5, 1, 0, -1, 3, 4, 0.25, 1.5)


def plain_edits(
    number: int, node: ast.AST, operands: Sequence[Any], axes: frozenset[int]
) -> Iterator[Edit]:
    """Edits of what is written there: an operator, a sign, a comparison, a function.

    Args:
        number: the expression's number.
        node: the expression.
        operands: what it was computed from.
        axes: the numbers (``id``) of the constants that say along which axis something is done.
    """
    if isinstance(node, ast.BinOp):
        yield from _operator_edits(number, node)
    elif isinstance(node, ast.UnaryOp):
        yield Edit(number, Kind.SIGN, lambda s, x: x, node.operand)
    elif isinstance(node, ast.Compare):
        yield from _comparison_edits(number, node)
    elif isinstance(node, ast.Call):
        yield from _call_edits(number, node, operands)
    elif isinstance(node, ast.Attribute) and node.attr in ("T", "mT", "H", "mH"):
        yield Edit(number, Kind.TRANSPOSED, lambda s, owner, name: owner, node.value)
    elif isinstance(node, ast.AugAssign):
        return
    elif isinstance(node, ast.Constant):
        yield from _constant_edits(number, node, id(node) in axes)


def axis_constants(tree: ast.AST) -> frozenset[int]:
    """The constants that say along which axis something is done, by their ``id``."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        places = [k.value for k in node.keywords if k.arg in ("dim", "axis", "keepdim", "dims")]
        if isinstance(node.func, ast.Attribute) and node.func.attr in AXIS_FIRST:
            places += node.args
        found.update(
            id(inner) for place in places for inner in ast.walk(place)
            if isinstance(inner, ast.Constant)
        )  # fmt: skip
    return frozenset(found)


def _operator_edits(number: int, node: ast.BinOp) -> Iterator[Edit]:
    left, right, usual = node.left, node.right, BINARY[type(node.op)]
    for other in OPERATORS.get(type(node.op), ()):
        yield Edit(
            number, Kind.WRONG_OPERATOR,
            lambda s, a, b, f=BINARY[other]: f(a, b),
            ast.BinOp(left, other(), right),
        )  # fmt: skip
    if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult, ast.Pow)):
        yield Edit(
            number, Kind.WRONG_OPERATOR, lambda s, a, b: usual(b, a),
            ast.BinOp(right, node.op, left),
        )  # fmt: skip
    too_many = Kind.EXTRA_TERM if isinstance(node.op, (ast.Add, ast.Sub)) else Kind.EXTRA_FACTOR
    yield Edit(number, too_many, lambda s, a, b: a, left)
    if isinstance(node.op, ast.Sub):
        yield Edit(number, too_many, lambda s, a, b: -b, ast.UnaryOp(ast.USub(), right))
    yield Edit(number, too_many, lambda s, a, b: b, right)
    if isinstance(node.op, ast.MatMult):
        for a, b in ((True, False), (False, True), (True, True)):
            yield Edit(
                number, Kind.TRANSPOSED,
                lambda s, x, y, a=a, b=b: _turned(x, a) @ _turned(y, b),
                ast.BinOp(_turned_node(left, a), ast.MatMult(), _turned_node(right, b)),
            )  # fmt: skip


def _turned(tensor: Tensor, turn: bool) -> Tensor:
    return tensor.transpose(-1, -2) if turn else tensor


def _turned_node(node: ast.expr, turn: bool) -> ast.expr:
    return ast.Attribute(node, "mT", ast.Load()) if turn else node


def _comparison_edits(number: int, node: ast.Compare) -> Iterator[Edit]:
    for other in COMPARISONS:
        if not isinstance(node.ops[0], other):
            yield Edit(
                number, Kind.WRONG_CONDITION,
                lambda s, a, b, f=BINARY[other]: f(a, b),
                ast.Compare(node.left, [other()], node.comparators),
            )  # fmt: skip


def _constant_edits(number: int, node: ast.Constant, is_axis: bool) -> Iterator[Edit]:
    old = node.value
    if is_axis and not isinstance(old, bool):
        for axis in (0, 1, 2, 3, -1, -2):
            if axis != old:
                edit = constant_edit(number, axis)
                edit.kind = Kind.WRONG_REDUCTION
                yield edit
        return
    if isinstance(old, bool):
        yield Edit(number, Kind.WRONG_REDUCTION, lambda s, x: not old, ast.Constant(not old))
        return
    assert isinstance(old, (int, float))
    for new in (-old, old + 1, old - 1, *CONSTANTS):
        if new != old:
            yield constant_edit(number, new)


def constant_edit(number: int, new: float) -> Edit:
    """Another number in the place of a constant."""
    whole = int(new) if float(new).is_integer() else new
    node: ast.expr = ast.Constant(abs(whole))
    if whole < 0:
        node = ast.UnaryOp(ast.USub(), node)
    return Edit(number, Kind.WRONG_CONSTANT, lambda s, x: whole, node)


def _call_edits(number: int, node: ast.Call, operands: Sequence[Any]) -> Iterator[Edit]:
    method = isinstance(node.func, ast.Attribute)
    args, kwargs = operands[-2], operands[-1]
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    for group in RELATED:
        if name in group:
            for other in group:
                if other != name and isinstance(node.func, ast.Attribute):
                    yield _renamed(number, node, other)
    if method and isinstance(operands[0], Tensor):
        yield Edit(number, _function_kind(name), lambda s, owner, *_: owner, node.func.value)  # type: ignore[attr-defined]
    elif args and isinstance(args[0], Tensor) and not isinstance(node.args[0], ast.Starred):
        yield Edit(
            number, _function_kind(name), lambda s, *all_: all_[-2][0], node.args[0]
        )  # fmt: skip
    if name in SUMS and method and isinstance(operands[0], Tensor) and not args and not kwargs:
        yield from _summed_along(number, node, operands[0].dim())
    plain = [i for i, arg in enumerate(node.args) if not isinstance(arg, ast.Starred)]
    tensors = [i for i in plain if isinstance(args[i], Tensor)]
    for first, second in itertools.pairwise(tensors):
        yield _exchanged(number, node, first, second)


def _function_kind(name: str) -> Kind:
    return Kind.WRONG_REDUCTION if name in ("sum", "mean", "cumsum") else Kind.WRONG_FUNCTION


def _renamed(number: int, node: ast.Call, other: str) -> Edit:
    assert isinstance(node.func, ast.Attribute)
    func = ast.Attribute(node.func.value, other, ast.Load())
    return Edit(
        number, _function_kind(node.func.attr),
        lambda s, owner, name, args, kwargs: getattr(owner, other)(*args, **kwargs),
        ast.Call(func, node.args, node.keywords),
    )  # fmt: skip


def _summed_along(number: int, node: ast.Call, dimensions: int) -> Iterator[Edit]:
    for axis in range(dimensions):
        for keep in (True, False):
            keywords = [ast.keyword("dim", ast.Constant(axis))]
            if keep:
                keywords.append(ast.keyword("keepdim", ast.Constant(True)))
            yield Edit(
                number, Kind.WRONG_REDUCTION,
                lambda s, owner, name, args, kwargs, a=axis, k=keep: getattr(owner, name)(
                    dim=a, keepdim=k
                ),
                ast.Call(node.func, [], keywords),
            )  # fmt: skip


def _exchanged(number: int, node: ast.Call, one: int, other: int) -> Edit:
    order = list(range(len(node.args)))
    order[one], order[other] = order[other], order[one]

    def instead(s: int, *operands: Any) -> Any:
        *called, args, kwargs = operands
        args = [args[i] for i in order]
        if len(called) == 2:
            return getattr(called[0], called[1])(*args, **kwargs)
        return called[0](*args, **kwargs)

    call = ast.Call(node.func, [node.args[i] for i in order], node.keywords)
    return Edit(number, Kind.WRONG_FUNCTION, instead, call)


def _is_float_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def unreduced(
    number: int,
    node: ast.expr,
    values: Mapping[int, int],
    points: Sequence[Mapping[int, Any]],
    sizes: Sequence[Piece],
) -> Iterator[Edit]:
    """The elements themselves, or divided by their number, where their mean or sum is written.

    Args:
        number: the expression's number.
        node: the expression; the mean stands somewhere in it.
        values: the numbers of the expressions, by the ``id`` of their nodes.
        points: what each expression is worth, at each point.
        sizes: names for the number of elements.
    """
    for inner in ast.walk(node):
        elements = _reduced_operand(inner)
        order = values.get(id(elements)) if elements is not None else None
        if elements is None or order is None or not _is_float_tensor(points[0][order]):
            continue
        found = [point[order] for point in points]
        yield Edit(number, Kind.WRONG_REDUCTION, lambda s, *_, f=found: f[s], elements)
        for size in sizes:
            if all(n == f.numel() for n, f in zip(size.values, found, strict=True)):
                yield Edit(
                    number, Kind.WRONG_REDUCTION,
                    lambda s, *_, f=found: f[s] / f[s].numel(),
                    ast.BinOp(elements, ast.Div(), size.node),
                )  # fmt: skip


def _reduced_operand(node: ast.AST) -> ast.expr | None:
    """``x`` in ``x.mean()`` and in ``torch.mean(x)``."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    if node.func.attr not in SUMS:
        return None
    owner = node.func.value
    return node.args[0] if isinstance(owner, ast.Name) and owner.id == "torch" else owner


def replaced(
    number: int, node: ast.expr, value: Any, pieces: Sequence[Piece], *, any_shape: bool = False
) -> Iterator[Edit]:
    """Another variable, another size, or an expression of forward, in the place of this one."""
    text = ast.unparse(node)
    short = isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
    for piece in pieces:
        new = piece.values[0]
        # Any variable may have been mistaken for another; a longer expression has the same shape.
        both = _is_float_tensor(value) and _is_float_tensor(new)
        plain = any_shape or isinstance(piece.node, ast.Name) or not both
        alike = short if plain else new.shape == value.shape
        if alike and piece.text != text and piece.at_hand(node):
            yield Edit(
                number, replacement_kind(node, piece.node), lambda s, *_, p=piece: p.values[s],
                piece.node,
            )  # fmt: skip


def broadcasts(value: Any, shape: torch.Size) -> bool:
    """Whether a value can be expanded to a shape."""
    if not isinstance(value, Tensor):
        return True
    try:
        torch.empty(value.shape, device="meta").expand(shape)
    except RuntimeError:
        return False
    return True


Unary = tuple[str, Kind, Callable[[Tensor], Tensor]]
UNARY: tuple[Unary, ...] = (
    ("-{}", Kind.SIGN, operator.neg),
    ("{}.mT", Kind.TRANSPOSED, lambda x: x.mT),
    ("(1 - {})", Kind.WRONG_FUNCTION, lambda x: 1 - x),
    ("(1 + {})", Kind.WRONG_FUNCTION, lambda x: 1 + x),
    ("1 / {}", Kind.WRONG_FUNCTION, lambda x: 1 / x),
    ("{}**2", Kind.WRONG_FUNCTION, lambda x: x**2),
    ("torch.exp({})", Kind.WRONG_FUNCTION, torch.exp),
    ("torch.log({})", Kind.WRONG_FUNCTION, torch.log),
    ("torch.sqrt({})", Kind.WRONG_FUNCTION, torch.sqrt),
    ("torch.sign({})", Kind.WRONG_FUNCTION, torch.sign),
    ("torch.abs({})", Kind.WRONG_FUNCTION, torch.abs),
    ("torch.sigmoid({})", Kind.WRONG_FUNCTION, torch.sigmoid),
    ("torch.tanh({})", Kind.WRONG_FUNCTION, torch.tanh),
)


def wrapped(number: int, node: ast.expr, more: Sequence[Unary]) -> Iterator[Edit]:
    """A function around a value: a sign, ``1 - x``, ``exp``, or one that the source uses."""
    text = ast.unparse(node)
    inner = (
        text
        if isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
        else f"({text})"
    )
    for pattern, kind, function in (*UNARY, *more):
        yield Edit(
            number, kind, lambda s, x, f=function: f(x),
            ast.parse(pattern.format(inner), mode="eval").body,
        )  # fmt: skip


def replacement_kind(old: ast.expr, new: ast.expr) -> Kind:
    """What it means that one expression stands where another is meant."""
    if isinstance(new, ast.BinOp):
        operands = {ast.dump(new.left), ast.dump(new.right)}
        if isinstance(new.op, ast.Sub):
            operands.add(ast.dump(ast.UnaryOp(ast.USub(), new.right)))
        if ast.dump(old) in operands:
            terms = isinstance(new.op, (ast.Add, ast.Sub))
            return Kind.MISSING_TERM if terms else Kind.MISSING_FACTOR
    if isinstance(new, ast.Call) and any(ast.dump(arg) == ast.dump(old) for arg in new.args):
        return Kind.WRONG_FUNCTION
    return Kind.WRONG_VARIABLE


def negated(number: int, node: ast.expr) -> Edit:
    """The other sign."""
    return Edit(number, Kind.SIGN, lambda s, x: -x, ast.UnaryOp(ast.USub(), node))


JOINS: tuple[tuple[type, Kind, Callable[[Any, Any], Any]], ...] = (
    (ast.Mult, Kind.MISSING_FACTOR, operator.mul),
    (ast.Div, Kind.MISSING_FACTOR, operator.truediv),
    (ast.Add, Kind.MISSING_TERM, operator.add),
    (ast.Sub, Kind.MISSING_TERM, operator.sub),
)


def joined(
    number: int, node: ast.expr, value: Any, pieces: Sequence[Piece], kinds: Sequence[Kind]
) -> Iterator[Edit]:
    """A factor or a term more: ``x * piece``, ``x / piece``, ``x + piece``, ``x - piece``."""
    for piece in pieces:
        if not piece.at_hand(node):
            continue
        for op, kind, join in JOINS:
            if kind in kinds:
                yield Edit(
                    number, kind, lambda s, x, p=piece, f=join: f(x, p.values[s]),
                    ast.BinOp(node, op(), piece.node),
                )  # fmt: skip
        if Kind.MISSING_FACTOR in kinds and _is_matrix(value) and _is_matrix(piece.values[0]):
            yield from _multiplied(number, node, piece)


def joined_from_left(
    number: int, node: ast.expr, pieces: Sequence[Piece], kinds: Sequence[Kind]
) -> Iterator[Edit]:
    """What :func:`joined` leaves out: ``piece / x``, ``piece - x``."""
    for piece in pieces:
        for op, kind, join in (JOINS[1], JOINS[3]):
            if kind in kinds and piece.at_hand(node):
                yield Edit(
                    number, kind, lambda s, x, p=piece, f=join: f(p.values[s], x),
                    ast.BinOp(piece.node, op(), node),
                )  # fmt: skip


def _is_matrix(value: Any) -> bool:
    return _is_float_tensor(value) and value.dim() == 2


def _multiplied(number: int, node: ast.expr, piece: Piece) -> Iterator[Edit]:
    for turn in (False, True):
        other = _turned_node(piece.node, turn)
        yield Edit(
            number, Kind.MISSING_FACTOR,
            lambda s, x, p=piece, t=turn: x @ _turned(p.values[s], t),
            ast.BinOp(node, ast.MatMult(), other),
        )  # fmt: skip
        yield Edit(
            number, Kind.MISSING_FACTOR,
            lambda s, x, p=piece, t=turn: _turned(p.values[s], t) @ x,
            ast.BinOp(other, ast.MatMult(), node),
        )  # fmt: skip


def harvested(trees: Sequence[ast.AST], names: Mapping[str, Any]) -> list[Unary]:
    """The calls that the source makes with one varying operand: ``x.sum(dim=1)``, ``f(x)``.

    Args:
        trees: where to look.
        names: the globals that functions are looked up in.
    """
    found: dict[str, Unary] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                unary = _method_as_unary(node, node.func) or _function_as_unary(node, names)
                if unary is not None:
                    found.setdefault(unary[0], unary)
    known = {pattern for pattern, _, _ in UNARY}
    return [unary for pattern, unary in found.items() if pattern not in known]


def _options(node: ast.Call) -> dict[str, Any] | None:
    """The keywords of a call, where they are literals."""
    found = {}
    for keyword in node.keywords:
        if keyword.arg is None or not _is_literal(keyword.value):
            return None
        found[keyword.arg] = ast.literal_eval(keyword.value)
    return found


def _method_as_unary(node: ast.Call, func: ast.Attribute) -> Unary | None:
    """``x.sum(dim=1)`` as the function of ``x`` that it is."""
    options = _options(node)
    if options is None or not all(_is_literal(arg) for arg in node.args):
        return None
    name, args = func.attr, [ast.literal_eval(arg) for arg in node.args]
    if not hasattr(Tensor, name):
        return None
    call = ast.Call(ast.Attribute(ast.Name("_x_"), name, ast.Load()), node.args, node.keywords)
    pattern = ast.unparse(call).replace("{", "{{").replace("}", "}}").replace("_x_", "{}", 1)
    return pattern, _function_kind(name), lambda x: getattr(x, name)(*args, **options)


def _function_as_unary(node: ast.Call, names: Mapping[str, Any]) -> Unary | None:
    """``torch.log_softmax(x, dim=1)`` as the function of ``x`` that it is."""
    options = _options(node)
    if options is None or not node.args or not all(_is_literal(arg) for arg in node.args[1:]):
        return None
    function = _resolved(node.func, names)
    if not callable(function):
        return None
    args = [ast.literal_eval(arg) for arg in node.args[1:]]
    call = ast.Call(node.func, [ast.Name("_x_"), *node.args[1:]], node.keywords)
    pattern = ast.unparse(call).replace("{", "{{").replace("}", "}}").replace("_x_", "{}", 1)
    return pattern, Kind.WRONG_FUNCTION, lambda x: function(x, *args, **options)


def _resolved(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What a dotted name stands for; ``None`` where it is no global."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_resolved(node.value, names), node.attr, None)
    return None


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True
