"""Smoothed labels that are no distribution any more.

Smoothing moves a share eps of the probability from the label to all classes: the row still sums to
1. For independent binary labels it moves each one toward 1/2: label and its opposite still sum to
1. What satisfies neither was smoothed by a wrong formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lossproof.checks.conventions import Call, Fault, distinct
from lossproof.checks.dataflow import Operand
from lossproof.checks.report import Severity
from lossproof.checks.trace import Operation

Tensor = torch.Tensor

SLACK = 1e-3
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
PRODUCTS = ("mul", "multiply", "__mul__", "__rmul__")


@dataclass(frozen=True)
class Smoothed:
    """Rows with one large number each among equal small ones."""

    on: float
    off: float
    classes: int

    @property
    def total(self) -> float:
        return self.on + (self.classes - 1) * self.off


def labels_smoothed_wrongly(call: Call) -> Iterator[Fault]:
    """Targets made inside the loss that were smoothed and do not sum to 1."""
    for operation in call.operations:
        if operation.name in ("cross_entropy", "kl_div", *BINARY):
            target = call.flow.operand(operation, 1, "target")
            binary = operation.name in BINARY
            if target is not None:
                yield from _judged(call, operation, target, binary)
        elif operation.name in PRODUCTS:
            yield from _products(call, operation)


def _products(call: Call, operation: Operation) -> Iterator[Fault]:
    """`smoothed * log_p`, a cross entropy by hand."""
    operands = call.flow.operands(operation)
    if len(operands) != 2:
        return
    for target, other in (operands, operands[::-1]):
        if call.is_target(target) and target.value.shape == other.value.shape:
            logarithms = any(
                origin.maker is not None and origin.maker.name in ("log_softmax", "log")
                for origin in call.flow.origins(other)
            )
            if call.is_predicted(other) and logarithms:
                yield from _judged(call, operation, target, binary=False)


def _judged(call: Call, operation: Operation, target: Operand, binary: bool) -> Iterator[Fault]:
    # What the user gave is data; what was made inside is the loss's own formula.
    if target.position is not None or not call.is_target(target) or target.maker is None:
        return
    found = _smoothed(target.value.detach())
    if found is None or abs(found.total - 1) < SLACK:
        return
    pairs = abs(found.on + found.off - 1) < SLACK or abs(found.on - 1) < SLACK
    if binary and pairs:
        return
    yield Fault(
        f"the smoothed target of `{operation.name}` sums to {found.total:.4g} per sample",
        call.location(target.maker),
        "smoothing-does-not-sum-to-one",
        "smooth with `(1 - eps) * one_hot + eps / classes`",
        {"on": found.on, "off": found.off, "classes": found.classes, "sum": found.total},
        (
            f"the label's own entry is {found.on:.4g}, each of the {found.classes - 1} others "
            f"{found.off:.4g}",
        ),
        Severity.WARNING if binary else Severity.ERROR,
    )


def _smoothed(values: Tensor) -> Smoothed | None:
    """Read rows of one large number among equal small ones, above 0."""
    if not values.is_floating_point() or values.dim() < 2:
        return None
    for axis in dict.fromkeys((1, values.dim() - 1)):
        classes, rows = values.shape[axis], values.numel() // max(values.shape[axis], 1)
        levels = distinct(_rounded(values))
        if classes < 3 or rows < 2 or levels is None or len(levels) != 2 or levels[0] <= 0:
            continue
        off, on = levels
        ones = (_rounded(values) > (on + off) / 2).sum(axis)
        if bool((ones == 1).all()):
            return Smoothed(on, off, classes)
    return None


def _rounded(values: Tensor) -> Tensor:
    """`0.9 * 1 + 0.1 / 30` and its like differ in the last bits."""
    return (values.double() * 1e6).round() / 1e6
