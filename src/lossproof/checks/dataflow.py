"""Which operation of a recorded call made what another one was given.

A recording lists operations; a :class:`Flow` joins them: for every operand, the operation that
made it, or the input of the loss that it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.trace import Operation, tensors_in

Tensor = torch.Tensor

# They hand on the same numbers, some of them perhaps, in another shape or type.
CARRIERS = frozenset(
    """
    view reshape view_as reshape_as permute transpose t T mT swapaxes movedim flatten unflatten
    squeeze unsqueeze contiguous clone to float double half bfloat16 type type_as cpu cuda
    __getitem__ masked_select index_select narrow select expand expand_as broadcast_to repeat
    chunk split unbind clamp clip clamp_min clamp_max nan_to_num dropout requires_grad_ detach data
    cat stack concat concatenate hstack vstack alias
    """.split()
)
# They ask for a shape and a type; the numbers are others.
_FACTORIES = frozenset(
    """
    zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones
    new_full new_empty new_tensor
    """.split()
)
# Of `p + 1e-8` and `1 - p`, the numbers stay what they were: probabilities.
_SHIFTS = frozenset({"add", "__add__", "__radd__", "sub", "__sub__"})
_DIVISIONS = frozenset({"div", "true_divide", "divide", "__truediv__"})
_COMPLEMENTS = frozenset({"__rsub__", "rsub"})
SMALL_SHIFT = 1e-2


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor that an operation was given."""

    value: Tensor
    maker: Operation | None
    """The operation that made it; ``None`` for an input of the loss or a constant."""
    position: int | None
    """The position among the loss's inputs, where it is one."""


class Flow:
    """The operations of a recorded call, joined by what they hand to each other.

    Args:
        operations: the recorded operations, in order.
        arguments: what the loss was called with.
    """

    def __init__(self, operations: Sequence[Operation], arguments: Sequence[Any]) -> None:
        self.operations = operations
        self._operands: dict[int, dict[int, Operand]] = {}
        self._consumers: dict[int, list[Operation]] = defaultdict(list)
        self._inputs: dict[int, frozenset[int]] = {}
        positions = {
            id(tensor): position
            for position, argument in enumerate(arguments)
            for tensor in tensors_in(argument)
        }
        made: dict[int, Operation] = {}
        for operation in operations:
            given = [*tensors_in(operation.args), *tensors_in(operation.kwargs)]
            self._operands[operation.index] = {
                id(value): Operand(value, made.get(id(value)), positions.get(id(value)))
                for value in given
            }
            self._inputs[operation.index] = self._inputs_of(operation)
            for operand in self._operands[operation.index].values():
                if operand.maker is not None:
                    self._consumers[operand.maker.index].append(operation)
            for result in _made_by(operation):
                made[id(result)] = operation
                positions.pop(id(result), None)

    def _inputs_of(self, operation: Operation) -> frozenset[int]:
        if operation.name in _FACTORIES:
            return frozenset()
        if not operation.args and not operation.kwargs:
            return operation.inputs  # a custom function, of which only this much is recorded
        operands = self._operands[operation.index].values()
        return frozenset().union(*map(self.inputs, operands))

    def inputs(self, operand: Operand) -> frozenset[int]:
        """The inputs of the loss that went into the numbers of an operand."""
        if operand.position is not None:
            return frozenset({operand.position})
        return frozenset() if operand.maker is None else self._inputs[operand.maker.index]

    def operands(self, operation: Operation) -> list[Operand]:
        """Everything the operation was given, in order."""
        return list(self._operands[operation.index].values())

    def operand(self, operation: Operation, slot: int, name: str) -> Operand | None:
        """The operand at a position or under a keyword; ``None`` where that is no tensor."""
        value = operation.kwargs.get(name)
        if value is None and slot < len(operation.args):
            value = operation.args[slot]
        return self.of(operation, value)

    def of(self, operation: Operation, value: Any) -> Operand | None:
        """The operand that a tensor among the arguments of the operation is."""
        return self._operands[operation.index].get(id(value))

    def consumers(self, operation: Operation) -> list[Operation]:
        """The operations that were given what this one made."""
        return self._consumers[operation.index]

    def origins(self, operand: Operand) -> list[Operand]:
        """Where the numbers of an operand come from, behind what only hands them on.

        Behind views, casts, selections, clamps, `p + 1e-8`, `1 - p`, `p / 4` and `cat`, which has
        several origins.
        """
        found, waiting, seen = [], [operand], set()
        while waiting:
            operand = waiting.pop()
            if id(operand.value) in seen:
                continue
            seen.add(id(operand.value))
            maker = operand.maker
            if maker is not None and _hands_on(maker):
                waiting += self.operands(maker)[: None if _joins(maker) else 1]
            else:
                found.append(operand)
        return found

    def numbers(self, operation: Operation) -> Iterator[float]:
        """The plain numbers among the arguments of an operation."""
        for value in (*operation.args, *operation.kwargs.values()):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield float(value)


def _made_by(operation: Operation) -> list[Tensor]:
    """The tensors that hold something new after the operation."""
    name, given = operation.name, list(tensors_in(operation.args))
    if name == "__setitem__":
        return given[:1]
    in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    old = set() if in_place else {id(value) for value in given}
    return [result for result in tensors_in(operation.out) if id(result) not in old]


def _joins(operation: Operation) -> bool:
    return operation.name in ("cat", "stack", "concat", "concatenate", "hstack", "vstack")


def _hands_on(operation: Operation) -> bool:
    if operation.name in CARRIERS:
        return True
    tensors = list(tensors_in(operation.args))
    constants = [value for value in operation.args if isinstance(value, (int, float))]
    if len(tensors) != 1 or len(constants) != 1:
        return False
    if operation.name in _SHIFTS:
        return abs(constants[0]) <= SMALL_SHIFT
    if operation.name in _DIVISIONS:
        return constants[0] >= 1  # a temperature: flatter, but in [0, 1] still
    return operation.name in _COMPLEMENTS and constants[0] == 1
