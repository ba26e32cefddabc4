"""The call of ``lossproof.pairs`` or ``lossproof.chunk`` that a loss could make instead.

It is read off the recorded operations and the text at their places: which expression makes the
large tensor of what, and which operation takes it in. Where one of these cannot be read, there is
no call, and the mend is said in words.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lossproof.checks.definitions import definitions, functions
from lossproof.checks.trace import Operation, Recorder, tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor

REDUCTIONS = {
    "logsumexp": "logsumexp", "log_softmax": "logsumexp", "softmax": "logsumexp",
    "cross_entropy": "logsumexp", "sum": "sum", "mean": "mean", "max": "max", "amax": "max",
    "min": "min", "amin": "min",
}  # fmt: skip
"""What an operation does with a row, as ``lossproof.pairs`` calls it."""
SOFTMAXES = ("log_softmax", "softmax")
INNER = 4
"""So many times variables are replaced by what they were set to."""
PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "addmm")
"""The operations that an output layer is made of."""


@dataclass(frozen=True)
class OutputLayer:
    """Logits that the loss computes itself, and what they were computed from."""

    operation: Operation
    logits: Tensor
    hidden: Tensor


def output_layer(trace: Recorder, ratio: int) -> OutputLayer | None:
    """The largest product of rows that is so many times larger than the rows."""
    found: OutputLayer | None = None
    for operation in trace.operations:
        if operation.name not in PRODUCTS or not isinstance(operation.out, Tensor):
            continue
        logits, hidden = operation.out, _rows(operation)
        if hidden is None or hidden.dim() < 2 or logits.dim() != hidden.dim():
            continue
        if logits.shape[:-1] != hidden.shape[:-1] or logits.numel() < ratio * hidden.numel():
            continue
        if found is None or logits.numel() > found.logits.numel():
            found = OutputLayer(operation, logits, hidden)
    return found


def _rows(operation: Operation) -> Tensor | None:
    """What is multiplied by the weight."""
    place = 1 if operation.name == "addmm" else 0
    rows = operation.args[place] if len(operation.args) > place else None
    return rows if isinstance(rows, Tensor) else None


def chunk_call(case: Examination, layer: OutputLayer) -> str | None:
    """``lossproof.chunk(loss, head)(hidden, target)`` for a loss over an output layer."""
    node = _expression(layer.operation)
    user = _next_user(case.trace, layer.logits)
    if node is None or user is None:
        return None
    called, target = _expression(user), _second_argument(user)
    hidden = _hidden(node)
    if not isinstance(called, ast.Call) or target is None or hidden is None:
        return None
    return f"lossproof.chunk({ast.unparse(called.func)}, {_head(node)})({hidden}, {target})"


def _hidden(node: ast.expr) -> str | None:
    """What the rows are called: the first operand."""
    rows = node.args[0] if isinstance(node, ast.Call) and node.args else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        rows = node.left
    return None if rows is None else ast.unparse(rows)


def _head(node: ast.expr) -> str:
    """The layer by its name, or the product as a function of rows."""
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called.rpartition(".")[2] in PRODUCTS:
            rest = ", ".join(map(ast.unparse, [*node.args[1:], *(k.value for k in node.keywords)]))
            return f"lambda rows: {called}(rows, {rest})"
        return called
    assert isinstance(node, ast.BinOp)
    weight = node.right
    if isinstance(weight, ast.Attribute) and weight.attr in ("T", "mT"):
        return ast.unparse(weight.value)  # (classes, features), as a layer has it
    return f"lambda rows: rows @ {ast.unparse(weight)}"


def _second_argument(operation: Operation) -> str | None:
    """What the loss calls the target that an operation is given."""
    node = _expression(operation)
    if isinstance(node, ast.Call) and len(node.args) > 1:
        return ast.unparse(node.args[1])
    return None


def pairs_call(case: Examination, matrix: Tensor) -> str | None:
    """``lossproof.pairs(function, reduction)(x, y)`` for a matrix over all pairs."""
    made, reducing = _until_reduced(case.trace, matrix)
    node = _expression(made)
    if reducing is None or node is None:
        return None
    for _ in range(INNER):
        names = _batched_names(case, node)
        if len(names) == 2:
            return _called(node, names, names, reducing)
        sides = _two_sides(node, names[0]) if len(names) == 1 else None
        if sides is not None:
            return _called(sides, ["x", "y"], names, reducing)
        node = _with_definitions(case, node, names)
    return None


def _called(node: ast.expr, names: Sequence[str], given: Sequence[str], reducing: Operation) -> str:
    along = reducing.kwargs.get("dim", reducing.args[1] if len(reducing.args) > 1 else None)
    columns = ", dim=0" if isinstance(along, int) and along == 0 else ""
    return (
        f"lossproof.pairs(lambda {', '.join(names)}: {ast.unparse(node)}, "
        f'"{REDUCTIONS[reducing.name]}"{columns})({", ".join(given)})'
    )


def _until_reduced(trace: Recorder, matrix: Tensor) -> tuple[Operation, Operation | None]:
    """The last operation on every pair, and the first that reduces them."""
    made, _ = trace.results[id(matrix)]
    current = matrix
    for operation in trace.operations[made.index + 1 :]:
        if not any(tensor is current for tensor in tensors_in([operation.args, operation.kwargs])):
            continue
        results = list(tensors_in(operation.out))
        if len(results) != 1 or results[0].shape[:2] != matrix.shape[:2]:
            return made, operation if operation.name in REDUCTIONS else None
        if operation.name in SOFTMAXES:
            return made, operation
        made, current = operation, results[0]
    return made, None


def _with_definitions(case: Examination, node: ast.expr, names: Sequence[str]) -> ast.expr:
    """The expression with the variables of the loss replaced by what they were set to."""
    values: dict[str, list[ast.expr]] = {}
    for source in definitions(case.subject):
        for one in ast.walk(source.tree):
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
                values.setdefault(one.targets[0].id, []).append(one.value)

    class Defined(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            known = values.get(name.id, [])
            if name.id not in names or len(known) != 1:
                return name
            return name if any(one.id == name.id for one in _names(known[0])) else known[0]

    found: ast.expr = Defined().visit(deepcopy(node))
    return found


def _next_user(trace: Recorder, tensor: Tensor) -> Operation | None:
    for operation in trace.operations:
        if any(one is tensor for one in tensors_in([operation.args, operation.kwargs])):
            return operation
    return None


def _expression(operation: Operation) -> ast.expr | None:
    """The user's expression that an operation came from, where it is the whole of a span."""
    place = operation.site.location
    if place is None or place.column is None:
        return None
    try:
        return ast.parse(operation.site.text.strip(), mode="eval").body
    except SyntaxError:
        return None


def _batched_names(case: Examination, node: ast.expr) -> list[str]:
    """The names in an expression that hold one row for each sample, in their order.

    These are inputs, and what the loss made of them; an input of another length is an option.
    """
    arguments = {argument.name: argument.value for argument in case.inputs.arguments}
    tensors = [v for v in arguments.values() if isinstance(v, Tensor) and v.dim() > 0]
    rows = max((value.shape[0] for value in tensors), default=0)
    found = []
    for name in sorted(_names(node), key=lambda one: (one.lineno, one.col_offset)):
        if name.id in arguments:
            value = arguments[name.id]
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows:
                found.append(name.id)
        elif name.id not in _constants(case):
            found.append(name.id)
    return list(dict.fromkeys(found))


def _constants(case: Examination) -> set[str]:
    """The names that are no variables of the loss: of modules, functions, options."""
    found = set(dir(builtins)) | set(case.subject.parameter_names) | {"self"}
    for function in functions(case.subject):
        found |= set(function.__globals__) | set(function.__kwdefaults__ or {})
    return found


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Name))


def _two_sides(node: ast.expr, name: str) -> ast.expr | None:
    """An expression of one name twice, ``z @ z.T``, as one of two names."""
    places = [one for one in _names(node) if one.id == name]
    if len(places) != 2:
        return None
    for place, side in zip(
        sorted(places, key=lambda n: (n.lineno, n.col_offset)), "xy", strict=True
    ):
        place.id = side
    return node
