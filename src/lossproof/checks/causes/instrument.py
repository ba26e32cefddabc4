"""A backward that can be run again with one expression changed, without compiling it anew.

Every expression of the source becomes a call of a hook that gets the expression's number and its
operands. The hook computes what the source says, unless that number is the one being edited.
"""

from __future__ import annotations

import ast
import copy
import operator
import types
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from lossproof.checks.causes.source import FunctionSource
from lossproof.checks.ordinary_code import StandInContext

Tensor = torch.Tensor

BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow, ast.MatMult: operator.matmul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
IN_PLACE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.iadd, ast.Sub: operator.isub, ast.Mult: operator.imul,
    ast.Div: operator.itruediv, ast.Pow: operator.ipow, ast.MatMult: operator.imatmul,
}  # fmt: skip

Operation = Callable[..., Any]
"""What is done at an expression instead: gets the same operands as the hook."""


@dataclass(eq=False)
class Record:
    """What one run computed: the operands and the value of every expression."""

    operands: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    values: dict[int, Any] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)


class _Hooks(ast.NodeTransformer):
    """Puts the hooks into a tree; ``nodes[i]`` is the original of expression ``i``."""

    def __init__(self, variables: Set[str]) -> None:
        self.nodes: list[ast.AST] = []
        self.variables = variables

    def _number(self, node: ast.AST) -> ast.Constant:
        self.nodes.append(node)
        return ast.Constant(len(self.nodes) - 1)

    def _hook(self, name: str, args: Sequence[ast.expr], keywords: Any = ()) -> ast.Call:
        return ast.Call(ast.Name(name, ast.Load()), list(args), list(keywords))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if type(node.op) not in BINARY:
            return self.generic_visit(node)  # type: ignore[return-value]
        number = self._number(node)
        left, right = self.visit(node.left), self.visit(node.right)
        return self._hook("_lp_binary", [number, left, right])

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) != 1 or type(node.ops[0]) not in BINARY:
            return self.generic_visit(node)  # type: ignore[return-value]
        number = self._number(node)
        left, right = self.visit(node.left), self.visit(node.comparators[0])
        return self._hook("_lp_binary", [number, left, right])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if not isinstance(node.op, ast.USub):
            return self.generic_visit(node)  # type: ignore[return-value]
        number = self._number(node)
        return self._hook("_lp_negative", [number, self.visit(node.operand)])

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not isinstance(node.ctx, ast.Load) or node.id not in self.variables:
            return node
        return self._hook("_lp_value", [self._number(node), node])

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, (int, float)):
            return node
        return self._hook("_lp_value", [self._number(node), node])

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return self.generic_visit(node)  # type: ignore[return-value]
        number = self._number(node)
        return self._hook(
            "_lp_attribute", [number, self.visit(node.value), ast.Constant(node.attr)]
        )

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return self.generic_visit(node)  # type: ignore[return-value]
        number = self._number(node)
        return self._hook("_lp_value", [number, self.generic_visit(node)])  # type: ignore[list-item]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        number = self._number(node)
        args = [self.visit(arg) for arg in node.args]
        keywords = [ast.keyword(k.arg, self.visit(k.value)) for k in node.keywords]
        if isinstance(node.func, ast.Attribute):
            owner = self.visit(node.func.value)
            return self._hook(
                "_lp_method", [number, owner, ast.Constant(node.func.attr), *args], keywords
            )
        return self._hook("_lp_call", [number, node.func, *args], keywords)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        if not isinstance(node.target, ast.Name) or type(node.op) not in IN_PLACE:
            node.value = self.visit(node.value)
            return node
        number = self._number(node)
        target = ast.Name(node.target.id, ast.Load())
        value = self._hook("_lp_in_place", [number, target, self.visit(node.value)])
        return ast.copy_location(ast.Assign([node.target], value), node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return node


def compiled(source: FunctionSource, tree: ast.FunctionDef, hooks: dict[str, Any]) -> Any:
    """A function made from ``tree`` with the globals and the closure of the original.

    Raises:
        ValueError: a variable of the closure is not filled.
        SyntaxError: the tree is no valid function.
    """
    original = source.function
    tree = copy.deepcopy(tree)
    tree.decorator_list = []
    tree.returns = None
    for argument in [*tree.args.args, *tree.args.posonlyargs, *tree.args.kwonlyargs]:
        argument.annotation = None
    code = original.__code__
    cells = {
        name: cell.cell_contents
        for name, cell in zip(code.co_freevars, original.__closure__ or (), strict=True)
    }
    outer = {**cells, **hooks}
    factory = ast.FunctionDef(
        name="_lp_factory",
        args=ast.arguments([], [ast.arg(name) for name in outer], None, [], [], None, []),
        body=[tree, ast.Return(ast.Name(tree.name, ast.Load()))],
        decorator_list=[],
    )
    if hasattr(factory, "type_params") or "type_params" in ast.FunctionDef._fields:
        factory.type_params = []  # type: ignore[attr-defined]
    module = ast.fix_missing_locations(ast.Module([factory], []))
    namespace: dict[str, Any] = {}
    exec(compile(module, source.file, "exec"), original.__globals__, namespace)
    return namespace["_lp_factory"](**outer)


class Instrumented:
    """A backward that can be run with one of its expressions changed.

    Raises:
        ValueError: a variable of its closure is not filled.
        SyntaxError: the source cannot be instrumented.
    """

    def __init__(self, source: FunctionSource) -> None:
        self.source = source
        hooks = _Hooks(_variables(source))
        tree = copy.deepcopy(source.tree)
        # Numbered in the copy; the originals are found again by their order in the walk.
        originals = {id(new): old for new, old in _pairs(tree, source.tree)}
        tree.body = [hooks.visit(statement) for statement in tree.body]
        self.nodes: list[ast.AST] = [originals[id(node)] for node in hooks.nodes]
        self._names = {
            "_lp_binary": self._binary, "_lp_negative": self._negative, "_lp_value": self._value,
            "_lp_attribute": self._attribute, "_lp_method": self._method, "_lp_call": self._call,
            "_lp_in_place": self._in_place,
        }  # fmt: skip
        self._operators = {i: _operator(node) for i, node in enumerate(self.nodes)}
        self._run = compiled(source, tree, self._names)
        self._edited = -1
        self._instead: Operation | None = None
        self._record: Record | None = None

    def run(self, args: Sequence[Any], edited: int = -1, instead: Operation | None = None) -> Any:
        """Run with expression number ``edited`` replaced; whatever it raises passes through."""
        self._edited, self._instead = edited, instead
        return self._run(*args)

    def usual(self, number: int) -> Operation:
        """What the source does at an expression."""
        node = self.nodes[number]
        if isinstance(node, ast.UnaryOp):
            return operator.neg
        if isinstance(node, ast.Attribute):
            return getattr
        if isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute)
            return _call_method if method else _call_function
        return self._operators[number]

    def recorded(self, args: Sequence[Any]) -> tuple[Any, Record]:
        """Run as written and note every operand and value."""
        self._record = Record()
        try:
            result = self.run(args)
            return result, self._record
        finally:
            self._record = None

    def _do(self, number: int, usual: Operation, *operands: Any) -> Any:
        if number == self._edited:
            assert self._instead is not None
            return self._instead(*operands)
        found = usual(*operands)
        record = self._record
        if record is not None:
            record.operands[number] = operands
            record.values[number] = _snapshot(found)
            record.runs[number] = record.runs.get(number, 0) + 1
        return found

    def _binary(self, number: int, left: Any, right: Any) -> Any:
        return self._do(number, self._operators[number], left, right)

    def _negative(self, number: int, operand: Any) -> Any:
        return self._do(number, operator.neg, operand)

    def _value(self, number: int, value: Any) -> Any:
        return self._do(number, _same, value)

    def _attribute(self, number: int, owner: Any, name: str) -> Any:
        return self._do(number, getattr, owner, name)

    def _method(self, number: int, owner: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._do(number, _call_method, owner, name, args, kwargs)

    def _call(self, number: int, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self._do(number, _call_function, function, args, kwargs)

    def _in_place(self, number: int, target: Any, value: Any) -> Any:
        return self._do(number, self._operators[number], target, value)


def _variables(source: FunctionSource) -> set[str]:
    """Everything a name can stand for but modules, functions and classes."""
    found = {
        name
        for name, value in source.function.__globals__.items()
        if isinstance(value, (int, float, Tensor))
    }
    found.update(source.function.__code__.co_varnames)
    found.update(source.function.__code__.co_cellvars)
    found.update(source.function.__code__.co_freevars)
    return found


def _pairs(one: ast.AST, other: ast.AST) -> list[tuple[ast.AST, ast.AST]]:
    return list(zip(ast.walk(one), ast.walk(other), strict=True))


def _operator(node: ast.AST) -> Operation:
    if isinstance(node, ast.BinOp):
        return BINARY[type(node.op)]
    if isinstance(node, ast.Compare):
        return BINARY[type(node.ops[0])]
    if isinstance(node, ast.AugAssign):
        return IN_PLACE[type(node.op)]
    return _same


def _same(value: Any) -> Any:
    return value


def _snapshot(value: Any) -> Any:
    """A value as it is now: a later statement may write to it."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _call_method(owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(owner, name)(*args, **kwargs)


def _call_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def fresh_context(ctx: StandInContext) -> StandInContext:
    """A copy of a context whose tensors a backward may write to."""
    new = StandInContext(ctx.needs_input_grad)
    for name, value in vars(ctx).items():
        setattr(new, name, _copied(value))
    return new


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_copied(item) for item in value)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, types.SimpleNamespace):
        return types.SimpleNamespace(**_copied(vars(value)))
    return value
