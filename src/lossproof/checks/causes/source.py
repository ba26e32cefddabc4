"""The source of a ``backward``: its syntax tree, and the places of its expressions."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.report import Location


def backward_of(cls: type[torch.autograd.Function]) -> Callable[..., Any] | None:
    """The function the user wrote as ``backward`` (or ``vjp``), without its decorators."""
    base = torch.autograd.Function
    for name in ("backward", "vjp"):
        found = getattr(cls, name, None)
        if found is not None and found is not getattr(base, name):
            unwrapped: Callable[..., Any] = inspect.unwrap(found)
            return unwrapped
    return None


@dataclass(eq=False)
class FunctionSource:
    """A function's text as a tree whose line numbers are those of its file."""

    function: Callable[..., Any]
    file: str
    tree: ast.FunctionDef
    indent: int
    """By how much the text was indented in its file."""

    def location(self, node: ast.AST) -> Location:
        """The place of an expression or statement."""
        line, end = node.lineno, node.end_lineno or node.lineno  # type: ignore[attr-defined]
        return Location.at(
            self.file,
            line,
            self._column(line, node.col_offset),  # type: ignore[attr-defined]
            end,
            self._column(end, node.end_col_offset or 0),  # type: ignore[attr-defined]
            getattr(self.function, "__qualname__", None),
        )

    @property
    def definition(self) -> Location:
        """The line of the ``def``."""
        return Location.at(
            self.file,
            self.tree.lineno,
            function=getattr(self.function, "__qualname__", None),
        )

    def _column(self, line: int, byte: int) -> int:
        text = linecache.getline(self.file, line)
        return len(text.encode()[: byte + self.indent].decode(errors="ignore")) + 1

    @property
    def returns(self) -> list[ast.Return]:
        """The ``return`` statements of the function itself, in the order of their lines."""
        found: list[ast.Return] = []
        waiting: list[ast.AST] = list(self.tree.body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Return):
                found.append(node)
            elif not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
                waiting += ast.iter_child_nodes(node)
        return sorted(found, key=lambda node: node.lineno)

    def returned(self, position: int) -> ast.expr | None:
        """The expression that the last ``return`` gives for one argument of ``forward``."""
        if not self.returns or self.returns[-1].value is None:
            return None
        value = self.returns[-1].value
        if isinstance(value, ast.Tuple) and not any(
            isinstance(item, ast.Starred) for item in value.elts
        ):
            return value.elts[position] if position < len(value.elts) else None
        return value

    def defining(self, position: int) -> ast.expr | None:
        """Where the gradient of an argument is computed: a returned name is looked up."""
        node = self.returned(position)
        upstream = {argument.arg for argument in self.tree.args.args[1:]}
        for _ in range(10):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                for one, other in ((node.left, node.right), (node.right, node.left)):
                    if isinstance(one, ast.Name) and one.id in upstream:
                        node = other  # `grad_output * grad`: look up `grad`
                        break
            if not isinstance(node, ast.Name):
                return node
            assigned = [
                other.value
                for other in ast.walk(self.tree)
                if isinstance(other, ast.Assign)
                and any(isinstance(t, ast.Name) and t.id == node.id for t in other.targets)
            ]
            if len(assigned) != 1:
                return node
            node = assigned[0]
        return node

    def return_location(self, positions: Sequence[int]) -> Location:
        """Where the gradient of these arguments is returned: its expression where there is one."""
        if len(positions) == 1:
            node = self.returned(positions[0])
            if node is not None:
                return self.location(node)
        if self.returns:
            return self.location(self.returns[-1])
        return self.definition


def source_of(function: Callable[..., Any] | None) -> FunctionSource | None:
    """Read a function's source; ``None`` where there is none (built in, or typed at a prompt)."""
    if function is None or not inspect.isfunction(function):
        return None
    try:
        lines, first = inspect.getsourcelines(function)
        file = inspect.getsourcefile(function) or function.__code__.co_filename
    except (OSError, TypeError):
        return None
    text = "".join(lines)
    try:
        module = ast.parse(textwrap.dedent(text))
    except SyntaxError:
        return None
    if len(module.body) != 1 or not isinstance(module.body[0], ast.FunctionDef):
        return None
    ast.increment_lineno(module, first - 1)
    indent = len(lines[0]) - len(lines[0].lstrip())
    return FunctionSource(function, file, module.body[0], indent)
