"""The loss has a `reduction` option that does not do what it says.

## What it does
Calls the loss with each value of its `reduction` option (`"none"`, `"mean"`, `"sum"`; `True` and
`False` for `size_average` and `reduce`), on several draws of the inputs, and compares the results
and the operations that made them. It reports an option that changes nothing, two values of it
that are one and the same, a `"none"` that reduces all the same, a `"mean"` that is the sum of
the items, a `"sum"` that is their mean, and a value that the loss offers but fails at.

## Why it matters
A loss that is summed where a mean was asked for has a gradient larger by the number of items: the
learning rate no longer fits, and it fits differently for each batch size. With `"none"` people
weight or mask the items themselves, and get one number instead, silently broadcast.

## Example
```python
class MyMSE(nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = REDUCTIONS[reduction]

    def forward(self, input, target):
        error = (input - target) ** 2
        return error.mean() if self.reduction == "mean" else error.sum()
```

## Use instead
```python
class MyMSE(nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input, target):
        error = (input - target) ** 2
        if self.reduction == "none":
            return error
        return error.mean() if self.reduction == "mean" else error.sum()
```

## Not reported
A mean that divides by something else than the number of items (the sum of the weights, the samples,
the items that count). A loss that has one item only, where all reductions agree. An option whose
documentation says that it has no effect, and one inherited with the constructor of a class whose
`forward` is replaced. A value that the loss refuses with an error of its own, and one that it never
names: a loss for `"mean"` and `"sum"` alone need not know `"none"`, unless that is what it was made
with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from lossproof.checks.definitions import replaces_call
from lossproof.checks.inner_losses import inner_losses
from lossproof.checks.options import instance_of
from lossproof.checks.reduction import (
    ReductionOption,
    Results,
    identical,
    mean_of,
    option_of,
    results_of,
    sum_of,
)
from lossproof.checks.report import Finding, Outcome, Severity
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP104"]
HELP = (
    'if reduction == "none":\n    return values\n'
    'return values.mean() if reduction == "mean" else values.sum()'
)


def examine(case: Examination) -> Iterable[Verdict]:
    """Compare what the values of the option give, of the loss and of the modules it calls."""
    verdicts = list(_examine(case))
    if all(isinstance(verdict, Outcome) for verdict in verdicts):
        inner = [verdict for part in inner_losses(case) for verdict in _examine(part)]
        verdicts = [verdict for verdict in inner if isinstance(verdict, Finding)] or verdicts
    return verdicts


def _examine(case: Examination) -> Iterable[Verdict]:
    option = option_of(case)
    if option is None:
        yield RULE.not_applicable("the loss has no `reduction` option that can be varied")
        return
    if case.base.value is not None and not bool(torch.isfinite(case.base.value.detach()).all()):
        yield RULE.unproved("the loss is not finite at the given inputs")
        return
    results = results_of(case, option)
    if len(results.given) < 2:
        yield RULE.unproved(results.why_not)
        return
    if replaces_call(type(instance_of(case))) and _ignored(option, results):
        yield RULE.unproved(
            f"`{option.name}` changes nothing, and is inherited with a constructor whose `forward` "
            "is replaced"
        )
        return
    verdict = (
        _same(case, option, results)
        or _reduced(case, option, results)
        or _exchanged(case, option, results)
        or _failing(case, option, results)
    )
    if verdict is not None:
        yield verdict
    elif results.undecided:
        yield RULE.unproved(results.undecided)
    else:
        said = ", ".join(repr(value) for value in results.given)
        yield RULE.proved(f"`{option.name}` was tried as {said}")


def _equal_pairs(results: Results) -> list[tuple[object, object]]:
    """The pairs of values that give the same by the same operations."""
    return [
        (one, other)
        for one, other in itertools.combinations(results.given, 2)
        if identical(results, one, other)
    ]


def _ignored(option: ReductionOption, results: Results) -> bool:
    """Whether all values give the same, and the loss knows of one of them."""
    everything = len(_equal_pairs(results)) == math.comb(len(results.given), 2)
    return everything and not results.undecided and option.known_to(results.given)


def _same(case: Examination, option: ReductionOption, results: Results) -> Verdict | None:
    """Values of the option that give the same by the same operations."""
    if _ignored(option, results):
        return _finding(
            case,
            option,
            f"`{option.name}` changes nothing: "
            + ", ".join(repr(value) for value in results.given)
            + f" all give {results.text(results.given[0])}",
            "ignored",
            results,
        )
    pairs = [] if results.undecided else _equal_pairs(results)
    if len(pairs) == math.comb(len(results.given), 2):
        return None
    for one, other in pairs:
        wrong = _wrong_of(option, results, one, other)
        if wrong is not None:
            right = other if wrong == one else one
            return _finding(
                case,
                option,
                f"`{option.name}={wrong!r}` gives the same as `{right!r}`: {results.text(wrong)}",
                "ignored",
                results,
            )
    return None


def _wrong_of(
    option: ReductionOption, results: Results, one: object, other: object
) -> object | None:
    """Which of two equal values is the one that is not done, if the loss knows of it at all."""
    if "none" in (one, other):
        second = other if one == "none" else one
        wrong: object = "none" if results.elements("none") == 1 else second
    else:
        # With every sample twice a sum doubles, and a mean stays.
        wrong = "mean" if results.doubles(one) else "sum"
    return wrong if option.known(wrong) else None


def _reduced(case: Examination, option: ReductionOption, results: Results) -> Verdict | None:
    """A ``"none"`` that gives one number, where mean and sum show that there are many items."""
    if "none" not in results.given or results.elements("none") != 1 or not option.known("none"):
        return None
    if not results.many_items or len(results.given) < 3:
        return None
    return _finding(
        case,
        option,
        f'`{option.name}="none"` gives one number: {results.text("none")}',
        "none-reduced",
        results,
    )


def _exchanged(case: Examination, option: ReductionOption, results: Results) -> Verdict | None:
    """A mean that is the sum of the items, or a sum that is their mean, at every point."""
    if "none" not in results.given or results.elements("none") < 2:
        return None
    if "mean" in results.given and results.all_points("mean", sum_of, but=mean_of):
        return _finding(
            case,
            option,
            f'`{option.name}="mean"` gives the sum of the items',
            "mean-is-sum",
            results,
        )
    if "sum" in results.given and results.all_points("sum", mean_of, but=sum_of):
        return _finding(
            case,
            option,
            f'`{option.name}="sum"` gives the mean of the items',
            "sum-is-mean",
            results,
        )
    return None


def _failing(case: Examination, option: ReductionOption, results: Results) -> Verdict | None:
    """A value that the loss names in its own source, and at which it breaks."""
    for value, error in results.failed.items():
        if option.named_in_source(value) and results.broke(value):
            return RULE.finding(
                f"`{option.name}={value!r}` raises {type(error).__name__}: {error}",
                location=case.where(error),
                cause="raises",
                evidence={"error": type(error).__name__},
                help=HELP,
            )
    return None


def _finding(
    case: Examination, option: ReductionOption, message: str, cause: str, results: Results
) -> Verdict:
    return RULE.finding(
        message,
        severity=Severity.ERROR,
        location=option.location(case),
        cause=cause,
        evidence=results.numbers,
        notes=(f"at {results.points} points, by comparing values and operations",),
        help=HELP,
    )
