"""Which axes inside a loss count samples: those that are twice as long for twice the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.batch import batch_of
from lossproof.checks.trace import Operation, tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor
NOTE = "axes"

SOFTMAXES = frozenset({"softmax", "log_softmax", "softmin"})
NORMALISATIONS = frozenset({"normalize", "cosine_similarity"})
# Where `dim` stands among the positional arguments, and what it is when nobody says.
DIMENSION_AT = {"normalize": (2, 1), "cosine_similarity": (2, 1)}


@dataclass(frozen=True)
class Counted:
    """An operation with the axes of its first operand that grow with the batch."""

    operation: Operation
    operand: Tensor
    result: Any
    twice: Tensor
    """The same operand for twice the batch."""
    twice_result: Any
    axes: frozenset[int]

    @property
    def others(self) -> list[int]:
        """The axes that do not grow, and along which there is something to choose."""
        shape = self.operand.shape
        return [i for i, size in enumerate(shape) if i not in self.axes and size > 1]

    @property
    def grows(self) -> bool:
        """Whether the result is larger for twice the batch."""
        one, two = next(tensors_in(self.result), None), next(tensors_in(self.twice_result), None)
        return one is not None and two is not None and two.numel() > one.numel()


def counted(case: Examination) -> list[Counted] | None:
    """Every operation of the loss, once measured; ``None`` where the batch cannot be doubled.

    A loss that performs other operations for twice the batch, such as one with a loop over the
    samples, is not followed.
    """
    if NOTE not in case.notes:
        case.notes[NOTE] = _measured(case)
    found: list[Counted] | None = case.notes[NOTE]
    return found


def _measured(case: Examination) -> list[Counted] | None:
    batch = batch_of(case)
    if batch is None:
        return None
    values = case.small.values
    once = case.evaluate(values, dtype=torch.float64, record=True, backward=False)
    twice = case.evaluate(
        batch.repeated(values, 2), dtype=torch.float64, record=True, backward=False
    )
    if once.trace is None or twice.trace is None or once.error or twice.error:
        return None
    one, two = once.trace.operations, twice.trace.operations
    if [operation.name for operation in one] != [operation.name for operation in two]:
        return None
    return list(_pairs(one, two))


def _pairs(one: list[Operation], two: list[Operation]) -> Iterator[Counted]:
    for first, second in zip(one, two, strict=True):
        operand = next(tensors_in(first.args), None)
        other = next(tensors_in(second.args), None)
        if operand is None or other is None or operand.dim() != other.dim():
            continue
        axes = frozenset(
            i
            for i, (size, larger) in enumerate(zip(operand.shape, other.shape, strict=True))
            if larger == 2 * size
        )
        yield Counted(first, operand, first.out, other, second.out, axes)


def dimension(operation: Operation) -> int | None:
    """The axis, counted from 0, along which a softmax or a normalisation works."""
    operand = next(tensors_in(operation.args), None)
    if operand is None or operand.dim() == 0:
        return None
    at, default = DIMENSION_AT.get(operation.name, (1, None))
    given = operation.kwargs.get("dim")
    if given is None and len(operation.args) > at:
        given = operation.args[at]
    if given is None:
        given = _implicit(operand) if default is None else default
    if not isinstance(given, int) or isinstance(given, bool):
        return None
    return given % operand.dim()


def _implicit(operand: Tensor) -> int:
    """The axis that torch takes for a softmax without `dim`."""
    return 0 if operand.dim() in (0, 1, 3) else 1
