"""An activation is applied to what went through one already.

## What it does
Follows the numbers of the prediction through the recorded call, from each softmax, sigmoid or
exponential (one written by hand counts as well) to the next one. Where an operation applies its
own activation (`cross_entropy` a softmax, `binary_cross_entropy_with_logits` a sigmoid,
`poisson_nll_loss` an exponential) to numbers that are probabilities already, both lines are named.
It also looks at the inputs: rows that each sum to one are no logits.

## Why it matters
Softmax of probabilities lies between 1/(K-1+e) and e/(K-1+e): the network can never be sure, the
loss never falls below log(1 + (K-1)/e) (0.31 for two classes, 1.46 for ten), and its gradient is
small just where the prediction is most wrong. Nothing fails; training is only slow and stops early.

## Example
```python
def criterion(logits, target):
    return F.cross_entropy(F.softmax(logits, dim=1), target)
```

## Use instead
```python
def criterion(logits, target):
    return F.cross_entropy(logits, target)
```

## Not reported
Activations side by side (a focal loss takes the sigmoid of the logits that it also gives to
`binary_cross_entropy_with_logits`); `log_softmax` of log-probabilities, which changes nothing;
probabilities that were rescaled, mixed or multiplied by something in between (temperatures,
attention); an activation of the target, or one whose result carries no gradient (a weight); numbers
between 0 and 1 given as an input, unless it is called a probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lossproof.checks.dataflow import Flow, Operand
from lossproof.checks.report import Location, Number, Severity
from lossproof.checks.roles import roles_of
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.trace import Operation

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP108"]
ROUNDING = 4e-3

SOFTMAX = frozenset("softmax special_softmax softmin gumbel_softmax".split())
SIGMOID = frozenset("sigmoid sigmoid_ special_expit hardsigmoid".split())
LOGS = frozenset("log_sigmoid log_softmax special_log_softmax logsigmoid".split())
EXPONENTIAL = frozenset("exp exp_ exp2 softplus".split())
CUTTING = frozenset("relu relu_".split())
BOUNDED = frozenset("tanh tanh_".split())


@dataclass(frozen=True)
class Second:
    """An operation that applies an activation of its own."""

    activation: str
    """``softmax``, ``sigmoid`` or ``exponential``."""
    loss: bool
    """Whether it is a loss, whose `input` is wanted as raw numbers and nothing else."""


SECOND = {
    "cross_entropy": Second("softmax", True),
    "softmax": Second("softmax", False),
    "special_softmax": Second("softmax", False),
    "log_softmax": Second("softmax", False),
    "special_log_softmax": Second("softmax", False),
    "logsumexp": Second("softmax", False),
    "binary_cross_entropy_with_logits": Second("sigmoid", True),
    "multilabel_soft_margin_loss": Second("sigmoid", True),
    "sigmoid": Second("sigmoid", False),
    "special_expit": Second("sigmoid", False),
    "log_sigmoid": Second("sigmoid", False),
    "poisson_nll_loss": Second("exponential", True),
}


def examine(case: Examination) -> Iterable[Verdict]:
    """Look behind every activation of the recorded call for an earlier one."""
    flow = Flow(case.trace.operations, case.base.passed)
    predictions = frozenset(
        i for i, role in enumerate(roles_of(case.inputs)) if role == "prediction"
    )
    found, looked_at = [], 0
    for operation in flow.operations:
        second = SECOND.get(operation.name)
        if second is None or operation.inside is not None:
            continue
        operand = flow.operand(operation, 0, "input")
        if operand is None or not _matters(flow, operation, second, predictions):
            continue
        looked_at += 1
        found += list(_judged(case, flow, operation, second, operand, predictions))
    yield from _first_of_each_line(found)
    if not found:
        if looked_at:
            yield RULE.proved(f"{looked_at} activations, none behind another")
        else:
            yield RULE.not_applicable("no activation is applied to the prediction")


def _first_of_each_line(found: list[Verdict]) -> Iterator[Verdict]:
    """A loop over classes meets the same line again and again."""
    seen = set()
    for finding in found:
        place = str(getattr(finding, "location", None))
        if place not in seen:
            seen.add(place)
            yield finding


def _matters(flow: Flow, operation: Operation, second: Second, predictions: frozenset[int]) -> bool:
    """Whether the operation is of the prediction, and its result carries the gradient on."""
    if predictions and not predictions & operation.inputs:
        return False
    if second.activation == "exponential":
        return _takes_log(operation)
    if second.loss:
        return True
    out = operation.out
    carried = isinstance(out, torch.Tensor) and out.requires_grad
    following = flow.consumers(operation)
    weight = bool(following) and all(next_.name in ("detach", "data") for next_ in following)
    return carried and not weight


def _takes_log(operation: Operation) -> bool:
    """Whether ``poisson_nll_loss`` takes the logarithm of the rate, as it does by default."""
    if len(operation.args) > 2:
        return bool(operation.args[2])
    return bool(operation.kwargs.get("log_input", True))


def _judged(
    case: Examination,
    flow: Flow,
    operation: Operation,
    second: Second,
    operand: Operand,
    predictions: frozenset[int],
) -> Iterator[Verdict]:
    for origin in flow.origins(operand):
        if origin.maker is not None and origin.maker.inputs & predictions:
            first = _first(flow, origin, second)
            if first is not None and _fits(operation, operand, first, second):
                yield _finding(case, operation, operand, origin.maker, first, second)
                return
        if origin.position in predictions:
            name = case.inputs.arguments[origin.position].name
            kind = _already(operation, operand, second, name)
            if kind is not None:
                yield _input_finding(case, operation, operand, origin.position, kind, second)
                return


def _first(flow: Flow, origin: Operand, second: Second) -> str | None:
    """Which activation made these numbers, if it must not come before the second."""
    maker = origin.maker
    assert maker is not None
    if second.activation == "exponential":
        return "exponential" if maker.name in EXPONENTIAL else None
    if maker.name in SOFTMAX or _softmax_by_hand(flow, maker):
        return "softmax"
    if maker.name in SIGMOID or _sigmoid_by_hand(flow, maker):
        return "sigmoid"
    if maker.name in LOGS and second.activation == "sigmoid":
        return "logarithm"
    if second.loss and maker.name in CUTTING:
        return "relu"
    return "tanh" if second.loss and maker.name in BOUNDED else None


def _softmax_by_hand(flow: Flow, maker: Operation) -> bool:
    """`e / e.sum(...)` with `e = exp(...)`."""
    if maker.name not in ("div", "true_divide", "divide", "__truediv__"):
        return False
    above = flow.operand(maker, 0, "input")
    if above is None or above.maker is None or above.maker.name not in ("exp", "exp_"):
        return False
    below = flow.operand(maker, 1, "other")
    return below is not None and any(
        step.maker is not None and step.maker.name == "sum" for step in flow.origins(below)
    )


def _sigmoid_by_hand(flow: Flow, maker: Operation) -> bool:
    """`1 / (1 + exp(-x))`."""
    if maker.name not in ("__rdiv__", "__rtruediv__", "reciprocal", "div"):
        return False
    below = flow.operands(maker)[-1] if flow.operands(maker) else None
    if below is None or below.maker is None or below.maker.name not in ("add", "__radd__"):
        return False
    return 1.0 in flow.numbers(below.maker) and any(
        step.maker is not None and step.maker.name == "exp" for step in flow.operands(below.maker)
    )


def _fits(operation: Operation, operand: Operand, first: str, second: Second) -> bool:
    """Whether the numbers themselves bear out what the trace says."""
    values = operand.value.detach()
    if values.numel() == 0 or not values.is_floating_point():
        return False
    low, high = float(values.min()), float(values.max())
    if first == "logarithm":
        return high <= 0
    if first == "relu":
        return low >= 0
    if first == "tanh":
        return low >= -1 and high <= 1
    if first == "exponential":
        return low >= 0
    unit = low >= -ROUNDING and high <= 1 + ROUNDING
    if first == "softmax" and second.activation == "softmax" and not second.loss:
        # A softmax over another axis than the first is another question (attention both ways).
        return unit and _sums_to_one(operation, values, scaled=True)
    if first == "sigmoid" and second.activation == "softmax" and not second.loss:
        return unit and operation.name != "logsumexp"
    return unit


def _sums_to_one(operation: Operation, values: torch.Tensor, scaled: bool = False) -> bool:
    """Whether the numbers are probabilities along the axis that the operation works on.

    Args:
        operation: the activation.
        values: what it was given.
        scaled: whether a temperature may have divided them all.
    """
    axis = _axis(operation, values)
    if axis is None or values.dim() == 0 or values.shape[axis] < 2:
        return False
    total = values.double().sum(axis)
    if scaled and 0 < float(total.mean()) <= 1:
        total = total / total.mean()
    return bool((values >= 0).all()) and bool(((total - 1).abs() < ROUNDING).all())


def _axis(operation: Operation, values: torch.Tensor) -> int | None:
    if operation.name == "cross_entropy":
        return 0 if values.dim() == 1 else 1
    given = operation.kwargs.get("dim", operation.args[1] if len(operation.args) > 1 else None)
    if isinstance(given, (tuple, list)) and len(given) == 1:
        given = given[0]
    return given if isinstance(given, int) and -values.dim() <= given < values.dim() else None


_CALLED_PROBABILITY = ("prob", "confidence", "sigmoid", "softmax")


def _already(operation: Operation, operand: Operand, second: Second, name: str) -> str | None:
    """Which activation an input of the loss has evidently been through already."""
    values = operand.value.detach()
    if not values.is_floating_point() or values.numel() < 4:
        return None
    if second.activation == "softmax":
        rows = values.numel() // max(values.shape[_axis(operation, values) or 0], 1)
        pattern = bool((values == values.round()).all())
        return "softmax" if rows > 1 and not pattern and _sums_to_one(operation, values) else None
    unit = bool(((values >= 0) & (values <= 1)).all())
    called = any(word in name.lower() for word in _CALLED_PROBABILITY)
    logarithm = "log" in name.lower()
    if second.activation == "sigmoid" and unit and called and not logarithm:
        return "sigmoid"
    return None


def _finding(
    case: Examination,
    operation: Operation,
    operand: Operand,
    maker: Operation,
    first: str,
    second: Second,
) -> Verdict:
    related: list[tuple[str, Location]] = []
    if maker.site.location is not None:
        related.append(("the first activation", maker.site.location))
    return RULE.finding(
        f"`{operation.name}` applies {_article(second)} to the result of {_named(first, maker)}",
        severity=Severity.ERROR,
        location=operation.site.location or case.subject.location,
        cause=f"{first}-then-{second.activation}",
        evidence=_evidence(operation, operand, second),
        notes=_notes(operation, operand, first, second),
        help=_help(operation, maker, first),
        related=related,
    )


def _input_finding(
    case: Examination,
    operation: Operation,
    operand: Operand,
    position: int,
    first: str,
    second: Second,
) -> Verdict:
    name = case.inputs.arguments[position].name
    how = "each of its rows sums to 1" if first == "softmax" else "all its values lie in [0, 1]"
    return RULE.finding(
        f"`{operation.name}` applies {_article(second)} to `{name}`, which holds probabilities "
        "already",
        severity=Severity.ERROR if first == "softmax" else Severity.WARNING,
        location=operation.site.location or case.subject.location,
        cause=f"{first}-in-the-model",
        evidence=_evidence(operation, operand, second),
        notes=(
            f"`{name}` has been through a {first}: {how}",
            *_notes(operation, operand, first, second),
        ),
        help=f"take the {first} out of the model and give the loss its logits",
    )


def _article(second: Second) -> str:
    return {"softmax": "a softmax", "sigmoid": "a sigmoid", "exponential": "an exponential"}[
        second.activation
    ]


def _named(first: str, maker: Operation) -> str:
    if first in ("softmax", "sigmoid") and maker.name not in SOFTMAX | SIGMOID:
        return f"a {first} written by hand"
    return f"`{maker.name}`"


def _evidence(operation: Operation, operand: Operand, second: Second) -> dict[str, Number]:
    values = operand.value.detach()
    evidence: dict[str, Number] = {"lowest": float(values.min()), "highest": float(values.max())}
    floor = _floor(operation, operand, second)
    if floor is not None:
        evidence["smallest_loss"] = floor
    return evidence


def _floor(operation: Operation, operand: Operand, second: Second) -> float | None:
    """The smallest value that the loss of one sample can still take."""
    values = operand.value.detach()
    if bool(((values < 0) | (values > 1)).any()):
        return None
    if operation.name == "cross_entropy" and values.dim() > 0:
        classes = values.shape[_axis(operation, values) or 0]
        return math.log1p((classes - 1) / math.e)
    if operation.name == "binary_cross_entropy_with_logits":
        return math.log1p(math.exp(-1))
    return None


def _notes(operation: Operation, operand: Operand, first: str, second: Second) -> tuple[str, ...]:
    floor = _floor(operation, operand, second)
    if first in ("softmax", "sigmoid") and floor is not None:
        if operation.name == "cross_entropy":
            return (f"even a perfect prediction costs {floor:.4g} per sample",)
        return (f"even a perfect prediction costs up to {floor:.4g} per element",)
    if first == "relu":
        return ("logits below 0 are cut: no class can be made unlikely, and no gradient goes back",)
    return ()


def _help(operation: Operation, maker: Operation, first: str) -> str:
    taken = f"leave `{maker.site.text}` out"
    if operation.name == "poisson_nll_loss":
        return f"{taken}, or say `log_input=False`"
    if first == "logarithm":
        return f"{taken} and give `{operation.name}` the raw logits"
    return f"{taken}: `{operation.name}` takes the raw numbers"
