"""The body of a loop as a function of one element of each sequence.

What a round adds to a sum, appends to a list or puts into its place of a tensor becomes what the
function returns. A branch on the value of an element becomes ``torch.where``, of both branches.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from lossproof.checks.loops.elements import NotRewrittenError

Kind = Literal["sum", "list", "item"]
Nested = Callable[[ast.For, "Round"], list[ast.stmt]]
NUMBERS = ("int", "float", "bool")
METADATA = ("shape", "size", "dim", "ndim", "dtype", "device", "numel")
ZERO = ast.Constant(0)


@dataclass(frozen=True)
class Result:
    """What a round does with a name that lives outside of it."""

    kind: Kind
    name: str
    minus: bool = False


class Round:
    """One round, read statement by statement.

    Args:
        changing: the names whose value changes from round to round.
        index: the name of the loop's index, if it has one.
        torch: what torch is called in the user's file.
        nested: turns a loop within the round into other statements.
    """

    def __init__(
        self, changing: Iterable[str], index: str | None, torch: str, nested: Nested
    ) -> None:
        self.changing = set(changing)
        self.index = index
        self.torch = torch
        self.nested = nested
        self.own: set[str] = set(changing)
        """The names that this round assigns itself."""
        self.statements: list[ast.stmt] = []
        self.results: dict[Result, ast.expr] = {}
        self.left: ast.expr | None = None
        """What is true of an element that the rest of the round leaves out (``continue``)."""

    def read(self, body: Sequence[ast.stmt]) -> None:
        """Go through the statements of the body.

        Raises:
            NotRewrittenError: one of them has no counterpart.
        """
        for statement in body:
            self._read(statement)

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.For):
            self.read(self.nested(statement, self))
        elif isinstance(statement, ast.FunctionDef):
            self.own.add(statement.name)
            self.statements.append(statement)
        elif isinstance(statement, ast.If):
            self._branch(statement)
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
            self._unpack(statement)
        elif not _does_nothing(statement):
            name, result, value = self._effect(statement)
            if result is None:
                assert name is not None
                self._assign(name, value)
            else:
                self._give(result, value)

    # ------------------------------------------------------------------ single statements
    def _effect(self, statement: ast.stmt) -> tuple[str | None, Result | None, ast.expr]:
        """A name of the round's own with its new value, or a result with what is given to it."""
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if name in self.own:
                return name, None, ast.BinOp(_load(name), statement.op, statement.value)
            return None, _sum(name, statement.op), statement.value
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            statement = ast.Assign([statement.target], statement.value)
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            return self._assigned(statement.targets[0], statement.value)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                if call.func.attr == "append" and len(call.args) == 1:
                    return None, Result("list", call.func.value.id), call.args[0]
        raise NotRewrittenError(f"`{ast.unparse(statement).splitlines()[0]}`")

    def _assigned(
        self, target: ast.expr, value: ast.expr
    ) -> tuple[str | None, Result | None, ast.expr]:
        if isinstance(target, ast.Name):
            if target.id in self.own or not _reads(value, target.id):
                return target.id, None, value
            return self._grown(target.id, value)
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            if isinstance(target.slice, ast.Name) and target.slice.id == self.index:
                return None, Result("item", target.value.id), value
        raise NotRewrittenError(f"an assignment to `{ast.unparse(target)}`")

    def _grown(self, name: str, value: ast.expr) -> tuple[None, Result, ast.expr]:
        """``total = total + x`` and the like, of a total from outside."""
        if isinstance(value, ast.BinOp):
            if ast.unparse(value.left) == name and not _reads(value.right, name):
                return None, _sum(name, value.op), value.right
            if ast.unparse(value.right) == name and isinstance(value.op, ast.Add):
                if not _reads(value.left, name):
                    return None, _sum(name, value.op), value.left
        raise NotRewrittenError(f"each round needs `{name}` of the one before")

    def _assign(self, name: str, value: ast.expr) -> None:
        value = self.tensors(value)
        if self.varies(value):
            self.changing.add(name)
        else:
            self.changing.discard(name)
        self.own.add(name)
        self.statements.append(ast.Assign([ast.Name(name, ast.Store())], value))

    def _unpack(self, statement: ast.Assign) -> None:
        target = statement.targets[0]
        assert isinstance(target, ast.Tuple)
        names = [one.id for one in target.elts if isinstance(one, ast.Name)]
        if len(names) != len(target.elts):
            raise NotRewrittenError(f"an assignment to `{ast.unparse(target)}`")
        if self.varies(statement.value):
            self.changing.update(names)
        self.own.update(names)
        self.statements.append(ast.Assign([target], self.tensors(statement.value)))

    def _give(self, result: Result, value: ast.expr) -> None:
        value = self.tensors(value)
        if self.left is not None:
            if result.kind != "sum":
                raise NotRewrittenError(f"a list `{result.name}` that not every round adds to")
            value = self._where(self.left, ZERO, value)
        known = self.results.get(result)
        if known is not None and result.kind != "sum":
            raise NotRewrittenError(f"`{result.name}` is added to twice in a round")
        self.results[result] = value if known is None else ast.BinOp(known, ast.Add(), value)

    # ------------------------------------------------------------------ branches
    def _branch(self, statement: ast.If) -> None:
        if len(statement.body) == 1 and isinstance(statement.body[0], ast.Continue):
            test = self.tensors(statement.test)
            both = self.left is not None and ast.BoolOp(ast.Or(), [self.left, test])
            self.left = self.tensors(both) if isinstance(both, ast.expr) else test
            self.read(statement.orelse)
            return
        names, results = self._effects_of(statement, {})
        for name, value in names.items():
            self._assign(name, value)
        for result, value in results.items():
            self._give(result, value)

    def _effects_of(
        self, statement: ast.If, known: dict[str, ast.expr]
    ) -> tuple[dict[str, ast.expr], dict[Result, ast.expr]]:
        """What either branch makes of each name, put together by the test."""
        test = _Filled(known).visit(deepcopy(statement.test))
        one, other = (self._of_branch(b, known) for b in (statement.body, statement.orelse))
        names = {}
        for name in {**one[0], **other[0]}:
            before = known.get(name, _load(name) if name in self.own else None)
            values = one[0].get(name, before), other[0].get(name, before)
            if values[0] is not None and values[1] is not None:
                names[name] = self._where(test, values[0], values[1])
        results = {}
        for result in {**one[1], **other[1]}:
            if result.kind != "sum" and not (result in one[1] and result in other[1]):
                raise NotRewrittenError(f"a list `{result.name}` that not every round adds to")
            results[result] = self._where(
                test, one[1].get(result, ZERO), other[1].get(result, ZERO)
            )
        return names, results

    def _of_branch(
        self, body: Sequence[ast.stmt], known: dict[str, ast.expr]
    ) -> tuple[dict[str, ast.expr], dict[Result, ast.expr]]:
        """The values of the names that a branch assigns, and what it gives to the results."""
        names: dict[str, ast.expr] = {}
        results: dict[Result, ast.expr] = {}
        for statement in body:
            inside = {**known, **names}
            if isinstance(statement, ast.If):
                more, given = self._effects_of(statement, inside)
                names.update(more)
            elif _does_nothing(statement):
                continue
            else:
                name, result, value = self._effect(statement)
                value = _Filled(inside).visit(deepcopy(value))
                given = {} if result is None else {result: value}
                if name is not None:
                    names[name] = value
            for result, value in given.items():
                earlier = results.get(result)
                results[result] = value if earlier is None else ast.BinOp(earlier, ast.Add(), value)
        return names, results

    def _where(self, test: ast.expr, one: ast.expr, other: ast.expr) -> ast.expr:
        if not self.varies(test):
            return ast.IfExp(test, one, other)
        return ast.Call(_attribute(self.torch, "where"), [self.tensors(test), one, other], [])

    # ------------------------------------------------------------------ expressions
    def varies(self, node: ast.AST) -> bool:
        """Whether an expression depends on the numbers of an element, not on its shape alone."""
        if isinstance(node, ast.Attribute) and node.attr in METADATA:
            return False
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "len":
            return False
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return False
        if isinstance(node, ast.Name):
            return node.id in self.changing
        return any(map(self.varies, ast.iter_child_nodes(node)))

    def tensors(self, node: ast.expr) -> ast.expr:
        """The expression with tensors in the place of the Python numbers it takes out of them."""
        found: ast.expr = _Tensors(self).visit(deepcopy(node))
        return found


class _Tensors(ast.NodeTransformer):
    def __init__(self, of: Round) -> None:
        self.of = of

    def visit_Call(self, node: ast.Call) -> ast.expr:
        varies = self.of.varies(node)
        self.generic_visit(node)
        if not varies:
            return node
        if isinstance(node.func, ast.Name) and node.func.id in NUMBERS and len(node.args) == 1:
            return node.args[0]
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "item" and not node.args:
                return node.func.value
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "math":
                node.func.value = _load(self.of.torch)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """A number cannot be taken out of a tensor to index with: an axis of one element can."""
        by_value = not isinstance(node.slice, (ast.Slice, ast.Tuple)) and self.of.varies(node.slice)
        self.generic_visit(node)
        if not by_value:
            return node
        inner = ast.Subscript(node.slice, ast.Constant(None), ast.Load())
        return ast.Subscript(
            ast.Subscript(node.value, inner, ast.Load()), ast.Constant(0), ast.Load()
        )

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        varies = self.of.varies(node.test)
        self.generic_visit(node)
        if not varies:
            return node
        where = _attribute(self.of.torch, "where")
        return ast.Call(where, [node.test, node.body, node.orelse], [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        varies = self.of.varies(node)
        self.generic_visit(node)
        if not varies:
            return node
        operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        found = node.values[0]
        for value in node.values[1:]:
            found = ast.BinOp(found, operator, value)
        return found

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        varies = self.of.varies(node)
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and varies:
            return ast.UnaryOp(ast.Invert(), node.operand)
        return node


class _Filled(ast.NodeTransformer):
    """Puts the value of a name in its place."""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return deepcopy(self.values.get(node.id, node))


def _sum(name: str, operator: ast.operator) -> Result:
    if not isinstance(operator, (ast.Add, ast.Sub)):
        raise NotRewrittenError(f"each round needs `{name}` of the one before")
    return Result("sum", name, isinstance(operator, ast.Sub))


def _does_nothing(statement: ast.stmt) -> bool:
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return docstring or isinstance(statement, ast.Pass)


def _reads(node: ast.AST, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _attribute(of: str, name: str) -> ast.Attribute:
    return ast.Attribute(_load(of), name, ast.Load())
