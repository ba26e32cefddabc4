"""Labels of 0 and 1 in a formula that is written for -1 and 1, and the reverse.

`relu(1 - y * f)` and `log(1 + exp(-y * f))` charge a constant for y = 0, whatever the prediction.
`y * a + (1 - y) * b` counts b twice for y = -1 and rewards a.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lossproof.checks.conventions import Call, Fault, distinct
from lossproof.checks.dataflow import Operand
from lossproof.checks.trace import Operation

Tensor = torch.Tensor

PRODUCTS = frozenset("mul multiply __mul__ __rmul__".split())
LINEAR = frozenset(
    "neg __neg__ negative sub __sub__ __rsub__ rsub add __add__ __radd__ mul div __rmul__".split()
)
CUTS = frozenset("relu relu_ clamp clamp_ clamp_min clip maximum max hinge threshold".split())
SOFT = frozenset("softplus exp log_sigmoid logsigmoid sigmoid".split())


def labels_of_the_other_sign(call: Call) -> Iterator[Fault]:
    """Products of a label and a prediction, in the formulas that want the other labels."""
    for operation in call.operations:
        if operation.name in PRODUCTS:
            label = _label(call, operation)
            if label is not None:
                yield from _margin(call, operation, label)
    yield from _switch(call)


def _label(call: Call, product: Operation) -> Operand | None:
    """The label in a product of a label and a prediction, one each for every element."""
    operands = call.flow.operands(product)
    if len(operands) != 2:
        return None
    for label, other in (operands, operands[::-1]):
        if call.is_target(label) and call.is_predicted(other):
            if label.maker is not None and label.maker.name == "neg":
                return call.flow.operand(label.maker, 0, "input")
            return label
    return None


def _margin(call: Call, product: Operation, label: Operand) -> Iterator[Fault]:
    if distinct(label.value) != (0.0, 1.0) or not call.is_label(label):
        return
    last = _bent(call, product)
    if last is None or _is_selected(call, last) or not _idle_at_zero(call, label):
        return
    yield Fault(
        f"the margin `{product.site.text}` takes labels -1 and 1, {call.name(label)} holds 0 and 1",
        call.location(product),
        "zero-one-for-signed",
        "map the labels: `2 * target - 1`",
        {"zeros": int((label.value == 0).sum()), "labels": label.value.numel()},
        (f"where the label is 0, `{last.name}` gives a constant and no gradient",),
    )


def _bent(call: Call, product: Operation) -> Operation | None:
    """The hinge or exponential that the product goes into, with a constant beside it in a hinge."""
    step, constant = product, False
    for _ in range(4):
        following = call.flow.consumers(step)
        if len(following) != 1:
            return None
        step = following[0]
        if step.name in SOFT:
            return step
        if step.name in CUTS:
            return step if constant else None
        if step.name not in LINEAR or len(call.flow.operands(step)) != 1:
            return None
        constant = constant or any(number != 0 for number in call.flow.numbers(step))
    return None


def _is_selected(call: Call, last: Operation) -> bool:
    """Whether the constant of a label 0 may be taken out again behind the hinge."""
    selecting = {*PRODUCTS, "__getitem__", "where", "masked_select", "masked_fill"}
    return any(step.name in selecting for step in call.flow.consumers(last))


def _idle_at_zero(call: Call, label: Operand) -> bool:
    """Whether the prediction has no gradient just where the label is 0."""
    values = label.value
    for leaf, gradient in zip(call.case.base.leaves, call.case.base.gradients, strict=True):
        if gradient is None or leaf.numel() != values.numel():
            continue
        flat, labels = gradient.detach().reshape(-1), values.reshape(-1)
        return bool((flat[labels == 0] == 0).all()) and bool((flat[labels == 1] != 0).any())
    return False


def _switch(call: Call) -> Iterator[Fault]:
    """`y * a + (1 - y) * b` with labels -1 and 1."""
    taken = [o for o in call.operations if o.name in PRODUCTS and _signed_label(call, o)]
    others = [o for o in call.operations if o.name in PRODUCTS and _one_minus_label(call, o)]
    if not taken or not others:
        return
    label = _signed_label(call, taken[0])
    assert label is not None
    yield Fault(
        f"`1 - {call.name(label).strip('`')}` is written for labels 0 and 1, {call.name(label)} "
        "holds -1 and 1",
        call.location(others[0]),
        "signed-for-zero-one",
        "map the labels: `(target + 1) / 2`",
        {"lowest": -1.0, "highest": 1.0},
        ("where the label is -1, one term counts twice and the other is rewarded",),
    )


def _signed_label(call: Call, product: Operation) -> Operand | None:
    label = _label(call, product)
    if label is None or distinct(label.value) != (-1.0, 1.0):
        return None
    return label if call.is_label(label) and _shaped(call, product, label) else None


def _one_minus_label(call: Call, product: Operation) -> bool:
    label = _label(call, product)
    if label is None or distinct(label.value) != (0.0, 2.0) or label.maker is None:
        return False
    maker = label.maker
    return maker.name in ("__rsub__", "rsub") and 1.0 in call.flow.numbers(maker)


def _shaped(call: Call, product: Operation, label: Operand) -> bool:
    """Whether the product is a term of its own, not the `y * f` of a margin."""
    following = call.flow.consumers(product)
    return all(
        step.name in ("add", "__add__", "__radd__", "sub", "__rsub__", "neg", "mean", "sum", "mul")
        for step in following
    )
