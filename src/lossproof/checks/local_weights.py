"""Weights that a loss computes for itself: the statements that do, and the operations in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lossproof.checks.definitions import definitions

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination
    from lossproof.checks.trace import Operation, Recorder

_WEIGHT = re.compile(r"^(w|ws|weights?|weighting|\w+_weights?|weights?_\w+|w_\w+|alpha_t)$", re.I)


def local_weights(case: Examination, trace: Recorder) -> Iterator[tuple[str, Operation]]:
    """Each local name that says *weight*, with the operation that made what it was bound to."""
    for source in definitions(case.subject):
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Assign) or len(node.targets) != 1:
                continue
            target = node.targets[0]
            if not isinstance(target, ast.Name) or not _WEIGHT.match(target.id):
                continue
            made = [
                operation
                for operation in trace.operations
                if _within(operation, source.file, node) and operation.inside is None
            ]
            if made:
                yield target.id, made[-1]


def _within(operation: Operation, file: str, node: ast.Assign) -> bool:
    place = operation.site.location
    if place is None or place.file != file:
        return False
    return node.value.lineno <= place.line <= (node.value.end_lineno or node.value.lineno)
