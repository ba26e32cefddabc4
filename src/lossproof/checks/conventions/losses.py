"""torch's own losses say which numbers they take; here those that were given others."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lossproof.checks.conventions import Call, Fault, distinct, sums_to_one
from lossproof.checks.dataflow import Operand
from lossproof.checks.report import Severity
from lossproof.checks.trace import Operation

Tensor = torch.Tensor

# Where a loss takes its labels, and that they are -1 and 1.
SIGNED = {
    "soft_margin_loss": 1,
    "margin_ranking_loss": 2,
    "hinge_embedding_loss": 1,
    "cosine_embedding_loss": 2,
}
UNIT = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
ZERO_ONE = ("multilabel_soft_margin_loss",)
SLACK = 1e-3


def masks_up_to_255(call: Call) -> Iterator[Fault]:
    """Masks read from an image file, compared with probabilities as they are."""
    for operation in call.operations:
        if operation.name not in ("mul", "sub", "__rsub__", "mse_loss", "l1_loss"):
            continue
        operands = call.flow.operands(operation)
        if len(operands) != 2:
            continue
        for mask, other in (operands, operands[::-1]):
            if not call.is_label(mask) or not call.is_predicted(other):
                continue
            predicted = other.value.detach()
            unit = bool(((predicted >= 0) & (predicted <= 1)).all())
            if unit and predicted.numel() > 8 and distinct(mask.value) == (0.0, 255.0):
                yield Fault(
                    f"{call.name(mask)} holds 0 and 255, and is compared with numbers from 0 to 1",
                    call.location(operation),
                    "target-outside-unit",
                    _scaling(255),
                    {"highest": 255.0, "highest_prediction": float(predicted.max())},
                )
                return


def losses_given_other_numbers(call: Call) -> Iterator[Fault]:
    """Labels and log-probabilities outside of what the called loss is defined for."""
    for operation in call.operations:
        name = operation.name
        if name in SIGNED:
            yield from _signed(call, operation, SIGNED[name])
        elif name in UNIT:
            yield from _unit(call, operation)
        elif name in ZERO_ONE:
            yield from _zero_one(call, operation)
        elif name in ("nll_loss", "ctc_loss"):
            yield from _log_probabilities(call, operation)
        elif name == "kl_div":
            yield from _divergence(call, operation)
        elif name == "cross_entropy":
            yield from _soft_target(call, operation)


def _values(operand: Operand | None) -> Tensor | None:
    return None if operand is None or not operand.value.numel() else operand.value.detach()


def _signed(call: Call, operation: Operation, slot: int) -> Iterator[Fault]:
    labels = call.flow.operand(operation, slot, "target")
    values = _values(labels)
    if labels is None or values is None or distinct(values) not in ((0.0,), (0.0, 1.0)):
        return
    yield Fault(
        f"`{operation.name}` takes labels -1 and 1, {call.name(labels)} holds 0 and 1",
        call.location(operation),
        "zero-one-for-signed",
        "map the labels: `2 * target - 1`",
        {"zeros": int((values == 0).sum()), "labels": values.numel()},
        ("a label of 0 cancels the prediction: the sample has no say",),
    )


def _unit(call: Call, operation: Operation) -> Iterator[Fault]:
    labels = call.flow.operand(operation, 1, "target")
    values = _values(labels)
    if labels is None or values is None or not values.is_floating_point():
        return
    low, high = float(values.min()), float(values.max())
    if low >= -SLACK and high <= 1 + SLACK:
        return
    signed = distinct(values) == (-1.0, 1.0)
    yield Fault(
        f"`{operation.name}` takes targets from 0 to 1, {call.name(labels)} goes from "
        f"{low:.4g} to {high:.4g}",
        call.location(operation),
        "signed-for-zero-one" if signed else "target-outside-unit",
        "map the labels: `(target + 1) / 2`" if signed else _scaling(high),
        {"lowest": low, "highest": high},
        ("the loss has no lower bound for such targets",),
    )


def _scaling(high: float) -> str:
    if high == 255:
        return "scale the target: `target / 255`"
    return "give targets from 0 to 1"


def _zero_one(call: Call, operation: Operation) -> Iterator[Fault]:
    labels = call.flow.operand(operation, 1, "target")
    values = _values(labels)
    if labels is None or values is None or distinct(values) not in ((-1.0,), (-1.0, 1.0)):
        return
    yield Fault(
        f"`{operation.name}` takes labels 0 and 1, {call.name(labels)} holds -1 and 1",
        call.location(operation),
        "signed-for-zero-one",
        "map the labels: `(target + 1) / 2`",
        {"lowest": -1.0, "highest": float(values.max())},
    )


def _log_probabilities(call: Call, operation: Operation) -> Iterator[Fault]:
    given = call.flow.operand(operation, 0, "input") or call.flow.operand(operation, 0, "log_probs")
    values = _values(given)
    if given is None or values is None or values.dim() == 0:
        return
    axis = -1 if operation.name == "ctc_loss" else min(1, values.dim() - 1)
    yield from _no_logarithms(call, operation, given, values, (axis,))


def _no_logarithms(
    call: Call, operation: Operation, given: Operand, values: Tensor, axes: tuple[int, ...]
) -> Iterator[Fault]:
    """Tell probabilities and logits from the log-probabilities that a loss wants."""
    if any(values.shape[axis] > 1 and sums_to_one(values, axis) for axis in axes):
        if bool((values == values.round()).all()):
            return  # one-hot rows: a test of the call, no prediction
        yield _missing_log(call, operation, given, values, "probabilities", "torch.log")
    elif float(values.max()) > SLACK and _made_or_called_logits(call, given):
        yield _missing_log(call, operation, given, values, "raw numbers", "F.log_softmax")


def _made_or_called_logits(call: Call, given: Operand) -> bool:
    """Whether it is plain that these are to be the outputs of a network, not log-probabilities."""
    if given.position is None:
        return False
    name = call.case.inputs.arguments[given.position].name.lower()
    return "logit" in name or "score" in name


def _missing_log(
    call: Call, operation: Operation, given: Operand, values: Tensor, what: str, mend: str
) -> Fault:
    return Fault(
        f"`{operation.name}` takes log-probabilities, {call.name(given)} holds {what}",
        call.location(operation),
        "probabilities-for-logarithms" if mend == "torch.log" else "logits-for-logarithms",
        f"take the logarithm first: `{mend}({call.name(given).strip('`')}"
        f"{'' if mend == 'torch.log' else ', dim=1'})`"
        if given.position is not None
        else "take `log_softmax` of the logits",
        {"lowest": float(values.min()), "highest": float(values.max())},
        ("log-probabilities are at most 0, and their exponentials sum to 1",),
    )


def _divergence(call: Call, operation: Operation) -> Iterator[Fault]:
    given = call.flow.operand(operation, 0, "input")
    values = _values(given)
    if given is not None and values is not None:
        axes = tuple(range(values.dim()))
        yield from _no_logarithms(call, operation, given, values, axes)
    yield from _divergence_target(call, operation)


def _divergence_target(call: Call, operation: Operation) -> Iterator[Fault]:
    target = call.flow.operand(operation, 1, "target")
    values = _values(target)
    if target is None or values is None or not values.is_floating_point():
        return
    logs = bool(operation.kwargs.get("log_target", False))
    finite = values[torch.isfinite(values)]
    if not finite.numel():
        return
    axes = [axis for axis in range(values.dim()) if values.shape[axis] > 1]
    if logs and any(sums_to_one(values, axis) for axis in axes):
        wants, mend = "log-probabilities, as `log_target=True` says", "say `log_target=False`"
        has = "probabilities"
    elif not logs and float(finite.max()) <= 0 and bool((finite < -SLACK).any()):
        wants, mend = "probabilities", "say `log_target=True`"
        has = "log-probabilities"
    else:
        return
    yield Fault(
        f"`kl_div` takes {wants}; {call.name(target)} holds {has}",
        call.location(operation),
        "log-target",
        mend,
        {"lowest": float(finite.min()), "highest": float(finite.max())},
    )


def _soft_target(call: Call, operation: Operation) -> Iterator[Fault]:
    given = call.flow.operand(operation, 0, "input")
    target = call.flow.operand(operation, 1, "target")
    values = _values(target)
    if given is None or target is None or values is None or not values.is_floating_point():
        return
    if values.shape != given.value.shape or not call.is_target(target):
        return
    axis = 0 if values.dim() == 1 else 1
    total = values.double().sum(axis)
    # A row of zeros takes its sample out, and rows may bear weights: neither is a mistake.
    if distinct(values) == (0.0, 1.0) and float(total.max()) >= 2:
        yield Fault(
            f"`cross_entropy` takes one distribution per sample, the rows of {call.name(target)} "
            f"hold up to {int(total.max())} ones",
            call.location(operation),
            "multi-hot-for-distribution",
            "for several labels per sample use `F.binary_cross_entropy_with_logits`; for one "
            "distribution divide each row by its sum",
            {"largest_sum": float(total.max())},
            severity=Severity.WARNING,
        )
    elif float(values.min()) < -SLACK:
        yield Fault(
            f"`cross_entropy` takes target probabilities, {call.name(target)} goes down to "
            f"{float(values.min()):.4g}",
            call.location(operation),
            "negative-probability",
            "give class indices, or probabilities that sum to 1",
            {"lowest": float(values.min())},
        )
