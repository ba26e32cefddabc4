"""The terms that a loss adds up, found in its recording.

Walks back from the value through sums, differences and products with constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.trace import Operation, Recorder

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation

Tensor = torch.Tensor

SUMS = frozenset({"add", "sub", "subtract", "rsub", "__add__", "__radd__", "__sub__", "__rsub__"})
PRODUCTS = frozenset({"mul", "multiply", "__mul__", "__rmul__", "__imul__", "mul_"})
QUOTIENTS = frozenset({"div", "divide", "true_divide", "__truediv__", "__itruediv__", "div_"})
SCALINGS = PRODUCTS | QUOTIENTS | {"neg", "__neg__", "squeeze", "clone", "double", "float", "to"}
DEPTH = 60


@dataclass(frozen=True)
class Term:
    """One term of the sum that a loss is."""

    operation: Operation
    """What made it."""
    value: float
    """With the factor that it gets on the way to the value."""


def terms(found: Evaluation) -> list[Term]:
    """The terms of a recorded evaluation, the loss itself where it is no sum."""
    if found.trace is None or found.value is None:
        return []
    return list(_terms(found.trace, found.value, 1.0, 0))


def maker(trace: Recorder, tensor: Any) -> Operation | None:
    """The operation that made a tensor."""
    made = trace.results.get(id(tensor))
    return None if made is None else made[0]


def quotient(operation: Operation | None) -> tuple[Any, Any] | None:
    """Numerator and denominator, where the operation is a division."""
    if operation is None or operation.name not in QUOTIENTS or len(operation.args) < 2:
        return None
    return operation.args[0], operation.args[1]


def _terms(trace: Recorder, tensor: Tensor, factor: float, depth: int) -> Iterator[Term]:
    made = maker(trace, tensor)
    if made is None or tensor.numel() != 1:
        return
    operands = [a for a in made.args if isinstance(a, Tensor)]
    # After a write in place, what was there before can no longer be asked for.
    written = any(operand is tensor for operand in operands)
    deeper = depth < DEPTH and not made.inside and made.out is tensor and not written
    if deeper and made.name in SUMS and _of_scalars(operands):
        for operand in operands:
            yield from _terms(trace, operand, factor, depth + 1)
    elif deeper and made.name in SCALINGS and _weighs(trace, operands):
        scale = _number(tensor) / (_number(operands[0]) or 1.0)
        yield from _terms(trace, operands[0], factor * scale, depth + 1)
    else:
        yield Term(made, factor * _number(tensor))


def _number(tensor: Tensor) -> float:
    return float(tensor.detach().double().sum())


def _of_scalars(operands: list[Tensor]) -> bool:
    return bool(operands) and all(operand.numel() == 1 for operand in operands)


def _weighs(trace: Recorder, operands: list[Tensor]) -> bool:
    """Whether a sum of terms is weighted as a whole here, by a number."""
    if len(operands) != 1 or operands[0].numel() != 1:
        return False
    before = maker(trace, operands[0])
    return before is not None and before.name in (SUMS | SCALINGS)
