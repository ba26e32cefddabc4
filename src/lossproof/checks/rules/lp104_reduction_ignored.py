"""The loss has a `reduction` option that does not do what it says.

## What it does
Calls the loss with each value of its `reduction` option (`"none"`, `"mean"`, `"sum"`; `True` and
`False` for `size_average` and `reduce`), on several draws of the inputs, and compares the results
and the operations that made them. It reports an option that changes nothing, two values of it
that are one and the same, a `"none"` that reduces all the same, a `"mean"` that is the sum of
the items, a `"sum"` that is their mean, a value that the loss offers but fails at, and items of
`"none"` that each hold the mean of an inner loss over all samples.

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
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from lossproof.checks.batch import batch_of
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
from lossproof.checks.trace import Recorder

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
        or _averaged_inside(case, option, results)
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
    if not pairs and results.given == [True, False] and results.is_mean_in_other_words(False):
        return _finding(
            case,
            option,
            f"`{option.name}=False` gives the mean all the same: {results.text(False)}",
            "ignored",
            results,
        )
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


_TORCH_LOSS = re.compile(r"(_loss|cross_entropy|cross_entropy_with_logits|_div)$")


def _averaged_inside(
    case: Examination, option: ReductionOption, results: Results
) -> Verdict | None:
    """Items that each hold the mean of an inner loss, which no reduction outside can take back."""
    if "none" not in results.given or results.elements("none") < 2 or not _offers_items(option):
        return None
    inner = [
        operation
        for operation in _trace_of(results, "none").operations
        if operation.inside is None
        and _TORCH_LOSS.search(operation.name)
        and isinstance(operation.out, torch.Tensor)
        and operation.out.dim() == 0
        and operation.out.requires_grad
    ]
    if len(inner) != 1 or not _every_item_holds_all(case, option):
        return None
    return RULE.finding(
        f'`{option.name}="none"` gives items that each hold the mean of `{inner[0].name}` over all '
        "samples",
        severity=Severity.ERROR,
        location=inner[0].site.location or option.location(case),
        cause="averaged-inside",
        evidence=results.numbers,
        notes=("the gradient of one item reaches every sample",),
        help=f'`{inner[0].name}(..., reduction="none")`, and reduce what comes of it',
    )


def _offers_items(option: ReductionOption) -> bool:
    """Whether the loss means to give its items: it names "none", or what it is not."""
    return option.known("none") or {"mean", "sum"} <= option.constants


def _trace_of(results: Results, value: object) -> Recorder:
    trace = results.found[value][0].trace
    assert trace is not None
    return trace


def _every_item_holds_all(case: Examination, option: ReductionOption) -> bool:
    """Whether the items have one gradient, at all samples, up to a factor: none has its own."""
    batch = batch_of(case)
    wanted = case.small.differentiable
    if batch is None or batch.size < 2 or batch.axes[wanted[0]] != 0:
        return False
    directions = []
    for item in (0, batch.size - 1):
        found = case.evaluate(
            case.small.values,
            dtype=torch.float64,
            subject=option.variants["none"],
            upstream=_only(item),
        )
        if found.failed or found.value is None or found.value.shape[:1] != (batch.size,):
            return False
        rows = found.gradient(0).reshape(batch.size, -1).abs().sum(1)
        if not bool((rows > 0).all()):
            return False
        directions.append(found.gradient(0) / found.gradient(0).norm())
    first, last = directions
    return torch.allclose(first, last, rtol=1e-9, atol=1e-12)


def _only(item: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The gradient from above of one item alone."""

    def upstream(value: torch.Tensor) -> torch.Tensor:
        ones = torch.zeros_like(value)
        ones[item] = 1
        return ones

    return upstream


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
