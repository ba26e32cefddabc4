"""The loss over the whole batch is not the mean of the losses over its parts.

## What it does
Compares the value over the whole batch with those over two parts of it, as gradient accumulation
and data parallelism see them: weighted by their numbers of samples for a mean, added up for a sum.
A loss that takes the global number of items (`normalizer`, `num_items_in_batch`, `avg_factor`) is
held to it: twice the number must give half the value, and the parts must add up to the whole.

## Why it matters
Four micro-batches of 8 are meant to train like one batch of 32. With a mean over the items that
count they do not: a micro-batch with 3 valid tokens counts as much as one with 300. That is what
the global number is for, and a loss that takes it and still divides by its own number of items, or
does not look at it, is off by the number of accumulation steps.

## Example
```python
def loss(logits, labels, num_items_in_batch):
    return F.cross_entropy(logits, labels) / num_items_in_batch
```

## Use instead
```python
def loss(logits, labels, num_items_in_batch):
    return F.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch
```
and `lossproof.reduce(values, weight, normalizer=...)` in losses of your own.

## Not reported
- A mean over the items that count, with class weights, a mask or an `ignore_index`, such as
  `torch.nn.CrossEntropyLoss(ignore_index=0)`. The mean is right for the batch that it is given,
  and nothing in it could know of the other parts. The rule leaves a remark among the unproved:
  who accumulates gradients has to sum, and to divide by the global number.
- Losses that couple their samples: parts of a batch have fewer pairs than the whole.
- Losses that draw random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from lossproof.checks.batch import Batch, Values, batch_of
from lossproof.checks.coupling import is_coupled, several_samples
from lossproof.checks.report import Location
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.terms import quotient

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP406"]
Tensor = torch.Tensor

NORMALIZER = re.compile(
    r"^(normali[sz]er|avg_factor|num_items(_in_batch)?|num_valid|n_?total|total_(count|items)|"
    r"global_(count|items|batch_size|n|num_items)|num_tokens)$",
    re.I,
)
ALIKE = 1e-7


def examine(case: Examination) -> Iterable[Verdict]:
    """Split the batch in two."""
    batch = batch_of(case)
    if batch is None:
        yield RULE.not_applicable("no argument is counted in samples, or it cannot be told")
        return
    if case.trace.random:
        yield RULE.unproved("the loss draws random numbers, other ones for another batch")
        return
    values = several_samples(case, batch) if case.affordable(8) else None
    if values is None:
        yield RULE.unproved("the loss is too slow, or there are too few samples to split")
        return
    normalizer = _normalizer(case)
    if normalizer is not None:
        yield from _held_to_it(case, batch, values, normalizer)
    else:
        yield _of_parts(case, batch, values)


def _parts(batch: Batch, values: Values) -> tuple[Values, Values, float]:
    """Two parts of the batch, and the share of the first."""
    count = batch.count(values)
    cut = max(1, count // 3)
    one, two = batch.rows(values, range(cut)), batch.rows(values, range(cut, count))
    return one, two, cut / count


def _value(case: Examination, values: Values) -> float | None:
    """The value; the mean of its elements where the loss gives one for each sample."""
    found = case.evaluate(values, dtype=torch.float64, backward=False)
    if found.error is not None or found.value is None:
        return None
    value = float(found.value.detach().double().mean())
    return value if abs(value) < float("inf") else None


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= ALIKE * max(abs(one), abs(other), 1e-12)


def _of_parts(case: Examination, batch: Batch, values: Values) -> Verdict:
    first, second, share = _parts(batch, values)
    whole, one, two = (_value(case, v) for v in (values, first, second))
    if whole is None or one is None or two is None:
        return RULE.unproved("the loss gives no finite value for a part of the batch")
    mean = share * one + (1 - share) * two
    if _same(whole, mean):
        return RULE.proved("the mean over two parts, by their numbers of samples, is the whole")
    if _same(whole, one + two):
        return RULE.proved("a sum: the parts add up to the whole")
    if is_coupled(case):
        return RULE.not_applicable("the loss couples its samples, of which a part has fewer pairs")
    return RULE.unproved(
        f"a mean over what counts, not over the samples: {whole:.6g} for the whole batch, "
        f"{mean:.6g} from its parts; under gradient accumulation or data parallelism, sum and "
        "divide by the number for all parts (`normalizer`)"
    )


# ---------------------------------------------------------------------------- a global number
def _normalizer(case: Examination) -> int | None:
    """The argument that holds the number of items of all parts."""
    for position, argument in enumerate(case.inputs.arguments):
        value = argument.value
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if NORMALIZER.match(argument.name) and not argument.differentiable:
            if number or (isinstance(value, Tensor) and value.numel() == 1):
                return position
    return None


def _held_to_it(
    case: Examination, batch: Batch, values: Values, position: int
) -> Iterator[Verdict]:
    name = case.inputs.arguments[position].name
    first, second, _ = _parts(batch, values)
    whole, doubled, one, two = (
        _value(case, v) for v in (values, _with(values, position, 2 * values[position]), first,
                                  second)
    )  # fmt: skip
    if whole is None or doubled is None or one is None or two is None or not whole:
        yield RULE.unproved(f"the loss gives no finite value for another `{name}`")
    elif _same(whole, doubled):
        yield RULE.finding(
            f"`{name}` is given and has no effect: the loss divides by its own number of items",
            location=case.subject.location,
            cause="normalizer-ignored",
            evidence={"value": whole, f"twice_{name}": doubled},
            help=f"`loss.sum() / {name}`",
        )
    elif not _same(whole, 2 * doubled):
        yield RULE.unproved(f"`{name}` does more than divide, or divides a part of the loss")
    elif _same(whole, one + two):
        yield RULE.proved(f"divided by `{name}`, the parts add up to the whole")
    elif is_coupled(case):
        yield RULE.not_applicable("the loss couples its samples, of which a part has fewer pairs")
    else:
        yield RULE.finding(
            f"the loss is divided by `{name}` and by its own number of items: the parts of a "
            f"batch add up to {(one + two) / whole:.3g} times the whole",
            location=_division(case) or case.subject.location,
            cause="divided-twice",
            evidence={"whole": whole, "sum_of_parts": one + two},
            help=f'sum the items (`reduction="sum"`), then divide by `{name}`',
        )


def _with(values: Values, position: int, value: object) -> Values:
    return (*values[:position], value, *values[position + 1 :])


def _division(case: Examination) -> Location | None:
    for operation in reversed(case.trace.operations):
        if quotient(operation) is not None:
            return operation.site.location
    return None
