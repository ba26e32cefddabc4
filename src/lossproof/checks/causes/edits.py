"""The changes that undo the common mistakes, for every kind of expression.

An edit says what is computed instead (:attr:`Edit.instead`, quick to try) and how the source reads
then (:attr:`Edit.rewritten`, to be shown and to be tried for certain).
"""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Callable, Iterator, Sequence
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

    @property
    def text(self) -> str:
        return ast.unparse(self.node)


OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add, ast.Mult, ast.Div),
    ast.Mult: (ast.Div, ast.Add, ast.Sub, ast.Pow), ast.Div: (ast.Mult, ast.Sub),
    ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,),
}  # fmt: skip
COMPARISONS = (ast.Lt, ast.Gt, ast.LtE, ast.GtE, ast.Eq, ast.NotEq)
SUMS = ("sum", "mean")
RELATED: tuple[tuple[str, ...], ...] = (
    ("sum", "mean", "amax", "amin", "prod"), ("max", "min"), ("maximum", "minimum"),
    ("exp", "log", "expm1", "log1p"), ("sigmoid", "tanh", "relu", "softplus", "logsigmoid"),
    ("sin", "cos"), ("sinh", "cosh", "tanh"), ("sign", "abs", "neg", "tanh"),
    ("softmax", "log_softmax", "sigmoid"), ("square", "sqrt", "rsqrt", "reciprocal"),
    ("ones_like", "zeros_like"), ("ones", "zeros"), ("cumsum", "logcumsumexp", "cumprod"),
    ("floor", "ceil", "round"), ("argmax", "argmin"), ("unsqueeze", "squeeze"),
)  # fmt: skip
CONSTANTS: tuple[float, ...] = (2, 0.5, 1, 0, -1, 3, 4, 0.25, 1.5)


def plain_edits(number: int, node: ast.AST, operands: Sequence[Any], value: Any) -> Iterator[Edit]:
    """Edits of what is written there: an operator, a sign, a comparison, a function."""
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
        yield from _constant_edits(number, node)


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


def _constant_edits(number: int, node: ast.Constant) -> Iterator[Edit]:
    old = node.value
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
    for one, other in zip(tensors, tensors[1:]):
        yield _exchanged(number, node, one, other)


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_float_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def replaced(number: int, node: ast.expr, value: Any, pieces: Sequence[Piece]) -> Iterator[Edit]:
    """Another variable, or another size, in the place of this one."""
    text = ast.unparse(node)
    for piece in pieces:
        new = piece.values[0]
        alike = (_is_float_tensor(value) and _is_float_tensor(new)) or (
            _is_number(value) and _is_number(new)
        )
        if alike and piece.text != text and piece.line <= node.lineno:
            yield Edit(
                number, Kind.WRONG_VARIABLE, lambda s, *_, p=piece: p.values[s], piece.node
            )  # fmt: skip


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


JOINS: tuple[tuple[type, Kind, Callable[[Any, Any], Any]], ...] = (
    (ast.Mult, Kind.MISSING_FACTOR, operator.mul),
    (ast.Div, Kind.MISSING_FACTOR, operator.truediv),
    (ast.Add, Kind.MISSING_TERM, operator.add),
    (ast.Sub, Kind.MISSING_TERM, operator.sub),
)


def joined(number: int, node: ast.expr, value: Any, pieces: Sequence[Piece]) -> Iterator[Edit]:
    """A factor or a term more: ``x * piece``, ``x / piece``, ``x + piece``, ``piece - x``..."""
    for piece in pieces:
        if piece.line > node.lineno:
            continue
        for op, kind, join in JOINS:
            yield Edit(
                number, kind, lambda s, x, p=piece, f=join: f(x, p.values[s]),
                ast.BinOp(node, op(), piece.node),
            )  # fmt: skip
        for op, kind, join in (JOINS[1], JOINS[3]):
            yield Edit(
                number, kind, lambda s, x, p=piece, f=join: f(p.values[s], x),
                ast.BinOp(piece.node, op(), node),
            )  # fmt: skip
        if _is_matrix(value) and _is_matrix(piece.values[0]):
            yield from _multiplied(number, node, piece)


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


def harvested(trees: Sequence[ast.AST]) -> list[Unary]:
    """The calls that the source makes with one varying operand: ``x.sum(dim=1)``, ``f(x)``."""
    found: dict[str, Unary] = {}
    for tree in trees:
        for node in ast.walk(tree):
            unary = _as_unary(node)
            if unary is not None:
                found.setdefault(unary[0], unary)
    known = {pattern for pattern, _, _ in UNARY}
    return [unary for pattern, unary in found.items() if pattern not in known]


def _as_unary(node: ast.AST) -> Unary | None:
    """``x.sum(dim=1)`` as the function of ``x`` that it is."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    keywords = {k.arg: k.value for k in node.keywords}
    if not all(_is_literal(value) for value in keywords.values()) or None in keywords:
        return None
    name = node.func.attr
    if all(_is_literal(arg) for arg in node.args):
        call = copy.deepcopy(node)
        call.func = ast.Attribute(ast.Name("_x"), name, ast.Load())
        args = [ast.literal_eval(arg) for arg in node.args]
        options = {str(k): ast.literal_eval(v) for k, v in keywords.items()}
        if not hasattr(Tensor, name):
            return None
        pattern = ast.unparse(call).replace("_x", "{}", 1)
        return pattern, _function_kind(name), lambda x: getattr(x, name)(*args, **options)
    return None


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True
