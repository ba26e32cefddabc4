"""Automatic mutants of the `backward` of a module, each one slip away from the right one.

A mutant is the module's text with one statement of the backward rewritten on its own line, so that
line numbers stay what they were and the true place of the fault is known.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.mutation import operators
from benchmarks.mutation.catalogue import Subject
from benchmarks.mutation.operators import Backward

SIMPLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.Return)


@dataclass(frozen=True)
class Mutant:
    """A backward with one slip in it."""

    subject: str
    split: str
    kind: str
    line: int
    """Where the fault is; for a fault in many places, where the first is."""
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """A name that changes when the text of the mutant does."""
        return f"{self.subject}-{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"


def mutants(subject: Subject) -> list[Mutant]:
    """Every mutant of one backward, each text once, in a fixed order."""
    source = subject.source
    found: dict[str, Mutant] = {ast.dump(ast.parse(source)): None}  # type: ignore[dict-item]
    for kind, edits in _edits(_backward_of(ast.parse(source))):
        text = _apply(source, edits)
        first = edits[0]
        mutant = Mutant(
            subject.name, subject.split, kind, first.old.lineno,
            ast.unparse(first.old), ast.unparse(first.new), text,
        )  # fmt: skip
        # The parsed text decides, since `(a) * b` and `a * b` are one mutant.
        found.setdefault(ast.dump(ast.parse(text)), mutant)
    return [mutant for mutant in found.values() if mutant is not None]


@dataclass(frozen=True)
class Edit:
    """One statement and what takes its place."""

    old: ast.stmt
    new: ast.AST


def _backward_of(tree: ast.Module) -> ast.FunctionDef:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "backward":
            return node
    raise ValueError("the module has no function `backward`")


def _edits(function: ast.FunctionDef) -> Iterator[tuple[str, list[Edit]]]:
    backward = Backward(function)
    statements = [node for node in ast.walk(function) if isinstance(node, SIMPLE)]
    body = [node for node in statements if not _is_docstring(node)]
    for place in body:
        for kind, change in operators.STATEMENT_OPERATORS.items():
            for new in change(place, backward):
                yield kind, [Edit(place, new)]
        for kind, old, new in _changes(place, backward):
            yield kind, [Edit(place, _substituted(place, old, new))]
    yield "grad-output-ignored", _grad_output_ignored(body, backward)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(place: ast.stmt, backward: Backward) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Every ``(kind, expression, what replaces it)`` inside one statement."""
    if "saved_tensors" in ast.unparse(place):
        return
    if isinstance(place, ast.Return) and place.value is not None:
        for kind, change in operators.RETURN_OPERATORS.items():
            for new in change(place.value, backward):
                yield kind, place.value, new
    targets = place.targets if isinstance(place, ast.Assign) else []
    ignored = {id(node) for target in targets for node in ast.walk(target)}
    for node in ast.walk(place):
        if id(node) in ignored:
            continue
        for kind, change in operators.EXPRESSION_OPERATORS.items():
            for new in change(node, backward):
                yield kind, node, new


def _substituted(place: ast.stmt, old: ast.AST, new: ast.AST) -> ast.AST:
    """A copy of a statement with one expression replaced."""
    position = next(i for i, node in enumerate(ast.walk(place)) if node is old)
    fresh = copy.deepcopy(place)
    target = list(ast.walk(fresh))[position]

    class Put(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return copy.deepcopy(new) if node is target else self.generic_visit(node)

    return Put().visit(fresh)


def _grad_output_ignored(body: Iterable[ast.stmt], backward: Backward) -> list[Edit]:
    """`grad_output` counts as one in every place."""

    class Ignore(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            if node.id not in backward.grad_outputs:
                return node
            return ast.parse(f"torch.ones_like({node.id})", mode="eval").body

    changed = [Edit(place, Ignore().visit(copy.deepcopy(place))) for place in body]
    return [edit for edit in changed if ast.unparse(edit.old) != ast.unparse(edit.new)]


def _apply(source: str, edits: Iterable[Edit]) -> str:
    """The text with statements rewritten; a statement keeps as many lines as it had."""
    lines = source.splitlines()
    for edit in edits:
        first, last = edit.old.lineno - 1, (edit.old.end_lineno or edit.old.lineno) - 1
        indent = lines[first][: edit.old.col_offset]
        new = indent + ast.unparse(ast.fix_missing_locations(edit.new))
        lines[first : last + 1] = [new] + [""] * (last - first)
    if any("torch." in ast.unparse(edit.new) for edit in edits) and "import torch" not in lines:
        lines = _with_torch(lines)
    return "\n".join(lines) + "\n"


def _with_torch(lines: list[str]) -> list[str]:
    """Import torch where the module does not, without moving a line."""
    place = next(i for i, line in enumerate(lines) if line.startswith("from torch.autograd"))
    return [*lines[:place], f"import torch; {lines[place]}", *lines[place + 1 :]]


def sample(found: Iterable[Mutant], per_subject: int | None) -> list[Mutant]:
    """At most ``per_subject`` mutants of each backward, drawn by lot; ``None`` keeps all.

    The lot depends on nothing but the texts of the mutants.
    """
    by_subject: dict[str, list[Mutant]] = {}
    for mutant in found:
        by_subject.setdefault(mutant.subject, []).append(mutant)
    drawn = (sorted(group, key=_lot)[:per_subject] for group in by_subject.values())
    return [mutant for group in drawn for mutant in group]


def _lot(mutant: Mutant) -> str:
    return hashlib.sha256(mutant.key.encode()).hexdigest()
