"""In float32 the loss or its gradient is finite and wrong, although the numbers it gets are exact.

## What it does

Computes the loss and its gradient in float32 and in float64 for the same numbers: confident logits,
values scaled up to 20, values with a common offset of 100 or 1000, a prediction that is nearly its
target. Where float32 is off by more than 1 % and one rounding of the inputs explains less than a
thirtieth of that, the way the loss is written down loses the digits, and the first operation whose
result is wrong is named with its line.

## Why it matters

Two large numbers that are subtracted leave their rounding errors: `E[x^2] - E[x]^2` of values
around 100 has no correct digit in float32, and it may be negative. Nothing is NaN, so nobody sees
it; the network is trained on noise.

## Example

```python
def variance(x):
    return (x**2).mean(0) - x.mean(0) ** 2  # of values around 1000 nothing is left


def spread_loss(x):
    return variance(x).sum()
```

## Use instead

```python
def variance(x):
    return ((x - x.mean(0)) ** 2).mean(0)


def spread_loss(x):
    return variance(x).sum()
```

## Not reported

- A loss that is as good as its inputs: where a rounding of the inputs changes the true value as
  much, no formula is better.
- Values and gradients that are small beside those at the given inputs: 1e-9 in place of 2e-9 at a
  perfect fit is no loss.
- A point at which only a tie decides, such as the kink of `abs`: it must be wrong close by, too.
- Digits and gradients that a tiny constant takes away, as in `log(p + 1e-8)`: it is there to keep
  the loss finite. The report tells it under *unproved*.
- Distances and moments by a product of matrices (`|a|^2 + |b|^2 - 2 ab`, `torch.cdist`), which are
  fast because of it; the report tells it, too.
- Losses that draw random numbers: those of float32 and float64 differ.
- The clamp of `torch.nn.functional.binary_cross_entropy`, which torch documents; the report tells
  it under *unproved*.
- Predictions far from their targets: an offset is added to both.
- Results that are not finite; that is LP302.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.accuracy import (
    NARROW,
    SIGNIFICANT,
    Deviation,
    beside,
    deviation,
    inherent,
    probing_points,
    size,
)
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.moved_inputs import SpecialPoint
from lossproof.checks.nonfinite import is_finite
from lossproof.checks.report import Finding, Number, Outcome, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.stabilisers import DeadGradient, dead_gradient, is_guarded
from lossproof.checks.trace import SUBTRACTIONS, Operation, tensors_in

RULE = RULES["LP305"]

TOLERATED = 1e-2
"""The relative error from which on it matters."""
EXPLAINED = 30.0
"""How many times larger it must be than what the inputs' roundings explain."""

PRODUCTS = frozenset(
    {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum", "addmm", "cdist"}
)
NEAR_PRODUCT = 8
"""So many operations may lie between a product of matrices and the difference it cancels in."""
DEEPEST = 24

Tensor = torch.Tensor
Made = dict[int, tuple[Operation, Any]]
"""Which operation made a result, by the identity of the result."""


@dataclass(frozen=True)
class _Loss:
    """A point at which digits are lost."""

    point: SpecialPoint
    what: str
    error: float
    explained: float
    found: float
    truth: float
    operation: Operation | None
    excuse: str | None = None
    """Why it is not the fault of who wrote the loss."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Compare float32 with float64 at every point where accuracy matters."""
    why_not = _unusable(case)
    if why_not is not None:
        yield RULE.unproved(why_not)
        return
    points = probing_points(case)
    given = case.evaluate(case.small.values, dtype=torch.float64)
    if not points or given.failed or given.value is None:
        yield RULE.not_applicable("there is no input whose magnitude can be raised")
        return
    tried = len(points) if case.affordable(2 * len(points)) else min(4, len(points))
    lost, errors = [], []
    for point in points[:tried]:
        found = deviation(case, point.values)
        if found is None or math.isinf(found.value):
            continue
        errors.append(max(_errors(found, given).values(), default=0.0))
        one = _judged(case, point, found, given)
        if one is not None:
            lost.append(one)
    dead = dead_gradient(case, given) if tried == len(points) else None
    guilty = [one for one in lost if one.excuse is None]
    if guilty:
        yield _finding(case, guilty)
    else:
        excused = {one.excuse: one for one in lost}
        for words, one in excused.items():
            yield RULE.unproved(
                f"when {one.point.words} the {one.what} is off by {_percent(one.error)}: {words}"
            )
        if dead is not None:
            yield RULE.unproved(_flat(dead))
        if not excused and dead is None:
            yield _no_finding(errors)
    if tried < len(points):
        yield RULE.unproved(f"{len(points) - tried} points were left out because the loss is slow")


def _no_finding(errors: list[float]) -> Outcome:
    if not errors:
        return RULE.unproved("the loss is not finite at the magnitudes that were tried")
    return RULE.proved(_limit(errors))


def _limit(errors: list[float]) -> str:
    small = [error for error in errors if error <= TOLERATED]
    words = (
        f"float32 has a relative error of at most {max(small, default=0.0):.1g} (value and "
        f"gradient) at {len(small)} points with large, offset or nearly equal numbers"
    )
    if len(small) < len(errors):
        words += f"; at {len(errors) - len(small)} more the loss is as uncertain as its inputs are"
    return words


def _unusable(case: Examination) -> str | None:
    base = case.base
    if base.value is None or not base.value.is_floating_point():
        return "the loss gives no floating-point value to look at"
    if not is_finite(base):
        return "the loss is not finite at the given inputs"
    if case.trace.random:
        return "the loss draws random numbers, which differ between float32 and float64"
    return None


# ---------------------------------------------------------------------------- judging
def _errors(found: Deviation, given: Evaluation) -> dict[str, float]:
    """The relative errors of what is large enough to matter."""
    errors = {}
    if size([found.truth.value]) > SIGNIFICANT * size([given.value]):
        errors["value"] = found.value
    if size(found.truth.gradients) > SIGNIFICANT * size(given.gradients):
        errors["gradient"] = found.gradient
    return errors


def _judged(
    case: Examination, point: SpecialPoint, found: Deviation, given: Evaluation
) -> _Loss | None:
    errors = {what: e for what, e in _errors(found, given).items() if e > TOLERATED}
    if not errors:
        return None
    explained = dict(
        zip(("value", "gradient"), inherent(case, point.values, found.truth), strict=True)
    )
    near = deviation(case, beside(case, point))
    if near is None:
        return None
    close_by = _errors(near, given)
    for what, error in errors.items():
        if error > EXPLAINED * explained[what] and close_by.get(what, 0.0) > TOLERATED:
            return _described(case, point, found, what, error, explained[what])
    return None


def _described(
    case: Examination, point: SpecialPoint, found: Deviation, what: str, error: float, limit: float
) -> _Loss:
    if what == "value":
        shown = found.narrow.scalar, found.truth.scalar
    else:
        shown = size(found.narrow.gradients), size(found.truth.gradients)
    operation, made = _first_wrong(case, point)
    excuse = _excuse(case, point, operation, made)
    return _Loss(point, what, error, limit, *shown, operation, excuse)


def _first_wrong(case: Examination, point: SpecialPoint) -> tuple[Operation | None, Made]:
    """The first operation of the forward pass whose float32 result is off, and what made what.

    Both types perform the same operations in the same order, or nothing is named.
    """
    runs = [
        case.evaluate(point.values, dtype=dtype, record=True, backward=False)
        for dtype in (NARROW, torch.float64)
    ]
    traces = [run.trace for run in runs]
    if traces[0] is None or traces[1] is None:
        return None, {}
    made = traces[0].results
    results = [
        {operation.index: (operation, made) for operation, made in trace.results.values()}
        for trace in traces
        if trace is not None
    ]
    worst: tuple[float, Operation] | None = None
    for index in sorted(results[0].keys() & results[1].keys()):
        (operation, one), (twin, other) = results[0][index], results[1][index]
        if operation.name != twin.name:
            return None, {}
        error = _result_error(one, other)
        if error > TOLERATED:
            return operation, made
        if worst is None or error > worst[0]:
            worst = (error, operation)
    return (None if worst is None or worst[0] < 1e-4 else worst[1]), made


def _result_error(one: object, other: object) -> float:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return 0.0
    if not one.is_floating_point() or one.numel() == 0:
        return 0.0
    a, b = one.detach().double(), other.detach().double()
    whole = float(b.norm())
    error = float((a - b).norm()) / whole if whole else 0.0
    return error if math.isfinite(error) else 0.0


# ---------------------------------------------------------------------------- excuses
def _excuse(
    case: Examination, point: SpecialPoint, operation: Operation | None, made: Made
) -> str | None:
    """Why the digits were given up on purpose, or by torch."""
    if operation is not None and operation.name == "binary_cross_entropy":
        return (
            "`binary_cross_entropy` keeps the logarithm above -100, and "
            "`binary_cross_entropy_with_logits` takes logits and is exact"
        )
    if operation is not None and _is_of_products(operation, made):
        return "distances and moments by a product of matrices are fast, and rounded so"
    # `1 - p` of a sure probability is 0 in float32; a difference of tensors lost its digits before.
    exact = operation is not None and _subtracts_tensors(operation)
    types = (torch.float64,) if exact else (torch.float64, NARROW)
    if is_guarded(case, point.values, types):
        return "there a tiny constant decides, which keeps the loss finite"
    return None


def _subtracts_tensors(operation: Operation) -> bool:
    operands = list(tensors_in([operation.args, operation.kwargs]))
    return operation.name in SUBTRACTIONS and len(operands) == 2


def _is_of_products(operation: Operation, made: Made) -> bool:
    """Whether what cancels is a product of matrices, or comes from `torch.cdist`, which uses one.

    ``|a|^2 + |b|^2 - 2 ab`` needs no array of all the differences.
    """
    level, seen = [operation], {operation.index}
    for depth in range(DEEPEST):
        for one in level:
            if one.name == "cdist" or (depth <= NEAR_PRODUCT and one.name in PRODUCTS):
                return True
        above = [
            made[id(operand)][0]
            for one in level
            for operand in tensors_in([one.args, one.kwargs])
            if id(operand) in made
        ]
        level = [one for one in dict.fromkeys(above) if one.index not in seen]
        seen |= {one.index for one in level}
    return False


# ---------------------------------------------------------------------------- telling
def _finding(case: Examination, lost: list[_Loss]) -> Finding:
    first = max(lost, key=lambda one: (one.operation is not None, min(one.error, 1.0)))
    operation = first.operation
    location = operation.site.location if operation is not None else None
    evidence: dict[str, Number] = {
        f"{first.what} in float32": first.found,
        f"{first.what} in float64": first.truth,
        "relative error": first.error,
        "explained by the inputs' rounding": first.explained,
        "points": len(lost),
    }
    text = f"`{operation.site.text}`" if operation is not None else "the loss"
    return RULE.finding(
        f"{text} loses its digits in float32 when {first.point.words}: the {first.what} is off by "
        f"{_percent(first.error)}",
        severity=Severity.WARNING,
        location=location or case.subject.location,
        cause="cancellation" if operation is not None else "rounding",
        evidence=evidence,
        notes=[f"also when {one.point.words}" for one in lost if one is not first][:3],
        help=_help(operation),
    )


def _flat(dead: DeadGradient) -> str:
    place = "" if dead.site.location is None else f" ({dead.site.location})"
    return (
        f"`{dead.site.text}`{place} keeps the loss finite and takes the gradient away when "
        f"{dead.point.words}: it is {dead.gradient:.2g}, and {dead.alive:.2g} without the tiny "
        "constant, so what is surely wrong learns nothing; `F.log_softmax` and `F.logsigmoid` "
        "need no constant"
    )


def _percent(error: float) -> str:
    return f"{100 * error:.0f} %" if error < 10 else f"a factor of {error:.2g}"


def _help(operation: Operation | None) -> str:
    name = "" if operation is None else operation.name.strip("_")
    if name in ("sub", "rsub", "subtract", "add"):
        return (
            "two large numbers cancel here: subtract before squaring or multiplying "
            "(`((x - x.mean()) ** 2).mean()` for a variance, `(a[:, None] - b[None]).square()` for "
            "distances), or use `expm1`, `log1p`, `logsumexp`"
        )
    return "compute this part in float64 (`x.double()`), or rewrite it without the cancellation"
