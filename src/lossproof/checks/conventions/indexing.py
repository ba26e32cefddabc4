"""Labels of 0 and 1 used as positions where they were meant to choose."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lossproof.checks.conventions import Call, Fault, distinct
from lossproof.checks.dataflow import Operand
from lossproof.checks.trace import Operation

Tensor = torch.Tensor

FEWEST = 4
"""From so many labels on, all of them 0 or 1, they are no positions by chance."""
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)


def labels_used_as_positions(call: Call) -> Iterator[Fault]:
    """`loss[event]` and `~event` with whole numbers, `gather` with one-hot rows."""
    for operation in call.operations:
        if operation.name == "__getitem__" and len(operation.args) > 1:
            yield from _indexing(call, operation, operation.args[1])
        elif operation.name == "index_select":
            yield from _selection(call, operation)
        elif operation.name in ("__invert__", "bitwise_not"):
            yield from _inversion(call, operation)
        elif operation.name in ("gather", "take_along_dim"):
            yield from _gathering(call, operation)


def _indexing(call: Call, operation: Operation, index: object) -> Iterator[Fault]:
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    chosen = call.flow.of(operation, operation.args[0])
    labels = call.flow.of(operation, index)
    if chosen is not None and labels is not None and _is_mask(call, chosen, labels, 0):
        yield _fault(call, operation, chosen, labels)


def _selection(call: Call, operation: Operation) -> Iterator[Fault]:
    axis = operation.kwargs.get("dim", operation.args[1] if len(operation.args) > 1 else None)
    chosen = call.flow.operand(operation, 0, "input")
    labels = call.flow.operand(operation, 2, "index")
    if chosen is not None and labels is not None and isinstance(axis, int):
        if _is_mask(call, chosen, labels, axis):
            yield _fault(call, operation, chosen, labels)


def _is_mask(call: Call, chosen: Operand, labels: Operand, axis: int) -> bool:
    """Whether there is one label per item chosen from, and all are 0 or 1.

    A table that labels are looked up in (class weights, centers) is not made from the prediction.
    """
    values = labels.value
    if values.dtype not in WHOLE or not call.is_predicted(chosen) or not call.is_given(labels):
        return False
    if values.dim() != 1 or chosen.value.dim() == 0 or values.numel() < FEWEST:
        return False
    return len(values) == chosen.value.shape[axis] and distinct(values) == (0.0, 1.0)


def _fault(call: Call, operation: Operation, chosen: Operand, labels: Operand) -> Fault:
    ones = int(labels.value.sum())
    dtype = str(labels.value.dtype).removeprefix("torch.")
    return Fault(
        f"{call.name(labels)} holds 0 and 1 as {dtype} and is used as positions, not as a mask",
        call.location(operation),
        "labels-as-positions",
        "make it a mask: `.bool()`",
        {"labels": len(labels.value), "ones": ones},
        (
            f"`{operation.site.text}` picks items 0 and 1 again and again, {len(labels.value)} "
            f"in all; as a mask it would pick the {ones} marked ones",
        ),
    )


def _inversion(call: Call, operation: Operation) -> Iterator[Fault]:
    labels = call.flow.operand(operation, 0, "input")
    if labels is None or labels.value.dtype is torch.bool or not call.is_given(labels):
        return
    values = labels.value
    if values.numel() >= FEWEST and distinct(values) == (0.0, 1.0):
        made = distinct(operation.out) or ()
        yield Fault(
            f"`~` of {call.name(labels)}, which holds whole numbers 0 and 1, gives "
            f"{' and '.join(f'{value:g}' for value in made)}, not 1 and 0",
            call.location(operation),
            "bitwise-not",
            "make it a mask first: `~labels.bool()`, or write `1 - labels`",
            {"labels": values.numel()},
        )


def _gathering(call: Call, operation: Operation) -> Iterator[Fault]:
    chosen = call.flow.operand(operation, 0, "input")
    labels = call.flow.operand(operation, 2, "index") or call.flow.operand(operation, 1, "indices")
    axis = operation.kwargs.get("dim", next(iter(call.flow.numbers(operation)), None))
    if chosen is None or labels is None or axis is None or not call.is_given(labels):
        return
    axis, values = int(axis), labels.value
    if not call.is_predicted(chosen) or values.dim() == 0 or values.shape[axis] < 3:
        return
    one_hot = distinct(values) == (0.0, 1.0) and bool((values.sum(axis) == 1).all())
    if one_hot and values.shape == chosen.value.shape and values.numel() > values.shape[axis]:
        yield Fault(
            f"`{operation.name}` takes class indices, {call.name(labels)} holds one-hot rows",
            call.location(operation),
            "one-hot-as-positions",
            f"give the indices: `target.argmax({axis}, keepdim=True)`, or multiply by the "
            "one-hot rows and sum",
            {"classes": int(values.shape[axis])},
        )
