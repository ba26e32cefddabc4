"""The value changes when the samples come in another order.

## What it does
Calls the loss with the samples of the batch in three other orders, all arguments permuted alike.
Where the value changes, it looks for what made it so: a running sum over the rows of survival data
that nothing sorted, or a sorted tensor beside one that kept its order.

## Why it matters
The order of a shuffled batch is chance. A partial likelihood whose risk set is "this row and all
rows above" compares every patient with random others, and trains all the same, only worse.

## Example
```python
def cox_loss(risk, time, event):
    at_risk = torch.logcumsumexp(risk, 0)
    return -((risk - at_risk) * event).sum() / event.sum()
```

## Use instead
```python
def cox_loss(risk, time, event):
    order = torch.argsort(time, descending=True)
    risk, event = risk[order], event[order]
    at_risk = torch.logcumsumexp(risk, 0)
    return -((risk - at_risk) * event).sum() / event.sum()
```

## Not reported
- Losses over ordered pairs: the rows (i, i + N/2) or (2 i, 2 i + 1) belong together, and whole
  pairs may come in any order.
- Series and signals: where the rows are steps of time or bins of a histogram, their order is
  data. It is told that the value depends on it, and not that this is wrong.
- A loss whose name, docstring or argument says that the rows are sorted.
- Rows of equal time after a sort: which of them comes first is for the sort to choose.
- Losses that draw random numbers row by row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from lossproof.checks.batch import Batch, Values, batch_of
from lossproof.checks.coupling import several_samples
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.trace import Operation, tensors_in
from lossproof.checks.wording import wording

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP405"]
Tensor = torch.Tensor

ALIKE = 1e-9
RUNNING = frozenset({"cumsum", "logcumsumexp", "cumprod", "cummax", "cummin", "cumsum_", "flip"})
TRIANGLES = frozenset({"tril", "triu", "tril_", "triu_", "tril_indices", "triu_indices"})
SORTS = frozenset({"sort", "argsort", "msort", "topk", "searchsorted"})
EVENT = re.compile(r"^(e|ev|d|delta)$|event|status|censor|observed|death|died|failure", re.I)
TIME = re.compile(r"^(t|y)$|time|duration|surv|follow", re.I)
SORTED = re.compile(r"sort|order|descending|ascending", re.I)


def examine(case: Examination) -> Iterable[Verdict]:
    """Permute the samples."""
    batch = batch_of(case)
    if batch is None:
        yield RULE.not_applicable("no argument is counted in samples, or it cannot be told")
        return
    if case.trace.random:
        yield RULE.unproved("the loss draws random numbers row by row")
        return
    values = several_samples(case, batch) if case.affordable(9) else None
    if values is None:
        yield RULE.unproved("there are too few samples to permute, or the loss is too slow")
        return
    count = batch.count(values)
    first = _value(case, values)
    if first is None:
        yield RULE.unproved("the loss gives no finite value for the batch that was to be permuted")
        return
    others = [_value(case, batch.permuted(values, order)) for order in _orders(count)]
    changed = [other for other in others if other is None or not _same(first, other)]
    if not changed:
        yield RULE.proved(f"the same value to a relative {ALIKE:g} for {len(others)} other orders")
    elif changed[0] is None:
        yield RULE.unproved("the loss gives no finite value for another order of the samples")
    elif _keeps_pairs(case, batch, values, first):
        yield RULE.not_applicable("the rows are ordered pairs, and whole pairs may be permuted")
    else:
        yield _verdict(case, first, changed[0], count)


def _orders(count: int) -> list[list[int]]:
    """Reversed, rotated and shuffled."""
    generator = torch.Generator().manual_seed(14_142)
    rows = list(range(count))
    shuffled = torch.randperm(count, generator=generator).tolist()
    return [rows[::-1], [*rows[1:], 0], shuffled]


def _value(case: Examination, values: Values) -> float | None:
    found = case.evaluate(values, dtype=torch.float64, backward=False, upstream=torch.ones_like)
    if found.error is not None or found.value is None:
        return None
    total = float(found.value.detach().double().sum())
    return total if abs(total) < float("inf") else None


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= ALIKE * max(abs(one), abs(other)) + 1e-15


def _keeps_pairs(case: Examination, batch: Batch, values: Values, first: float) -> bool:
    """Whether the value stays the same when whole pairs of rows are permuted."""
    count = batch.count(values)
    if count % 2 or count < 4:
        return False
    half = count // 2
    turned = list(reversed(range(half)))
    apart = [*turned, *(half + i for i in turned)]
    beside = [row for i in turned for row in (2 * i, 2 * i + 1)]
    for order in (apart, beside):
        other = _value(case, batch.permuted(values, order))
        if other is not None and _same(first, other):
            return True
    return False


# ---------------------------------------------------------------------------- what made it so
def _verdict(case: Examination, first: float, other: float, count: int) -> Verdict:
    numbers = {"value": first, "permuted": other}
    running = _unsorted_survival(case, count)
    if running is not None and not _says_sorted(case):
        with_time = any(TIME.search(argument.name) for argument in case.inputs.arguments)
        return RULE.finding(
            f"the value depends on the order of the samples: `{running.name}` runs over the rows, "
            "and nothing sorts them by time",
            severity=Severity.ERROR if with_time else Severity.WARNING,
            location=running.site.location or case.subject.location,
            cause="unsorted-risk-set",
            evidence=dict(numbers),
            notes=(f"{first:.6g} as given, {other:.6g} in another order",),
            help="sort by descending time first: `order = torch.argsort(time, descending=True)`, "
            "and index risk and event with it",
        )
    alone = None if running is not None else _sorted_alone(case)
    if alone is not None and not _says_sorted(case):
        return RULE.finding(
            f"the value depends on the order of the samples: `{alone.name}` sorts one tensor, and "
            "what it is compared with keeps its order",
            severity=Severity.WARNING,
            location=alone.site.location or case.subject.location,
            cause="sorted-alone",
            evidence=dict(numbers),
            notes=(f"{first:.6g} as given, {other:.6g} in another order",),
            help="sort both, or index both with one `argsort`",
        )
    return RULE.unproved(
        f"the value depends on the order of the samples ({first:.6g} as given, {other:.6g} in "
        "another order): right for a series, wrong for a batch that is shuffled"
    )


def _says_sorted(case: Examination) -> bool:
    return SORTED.search(wording(case.subject)) is not None


def _unsorted_survival(case: Examination, count: int) -> Operation | None:
    """What runs over the rows of survival data: a prediction and whether each event was seen."""
    if not any(_is_event(argument.name, argument.value) for argument in case.inputs.arguments):
        return None
    operations = [operation for operation in case.trace.operations if operation.inside is None]
    if any(operation.name in SORTS for operation in operations):
        return None
    wanted = set(case.inputs.differentiable)
    for operation in operations:
        if operation.name in RUNNING and operation.inputs & wanted:
            return operation
    triangles = [operation for operation in operations if operation.name in TRIANGLES]
    cuts = [o for o in operations if o.inputs & wanted and _cuts_rows(o)]
    if triangles or len(cuts) < count - 1:
        return triangles[0] if triangles else None
    return cuts[0]


def _cuts_rows(operation: Operation) -> bool:
    """`risk[i:]` and `risk[: i + 1]`, a risk set made of the rows above or below."""
    if operation.name != "__getitem__" or len(operation.args) < 2:
        return False
    index = operation.args[1]
    first = index[0] if isinstance(index, tuple) and index else index
    return isinstance(first, slice) and first != slice(None)


def _is_event(name: str, value: object) -> bool:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return False
    if value.dim() == 2 and value.shape[1] == 2 and not value.requires_grad:
        # Times in one column and events in the other.
        columns = [_is_binary(value[:, i]) for i in range(2)]
        return sorted(columns) == [False, True]
    return EVENT.search(name) is not None and _is_binary(value)


def _is_binary(value: Tensor) -> bool:
    return bool(((value == 0) | (value == 1)).all())


def _sorted_alone(case: Examination) -> Operation | None:
    """A sort by value of what the prediction made, where nothing else is sorted or indexed."""
    wanted = set(case.inputs.differentiable)
    sorts: list[Operation] = []
    for operation in case.trace.operations:
        if operation.name in ("gather", "take_along_dim", "index_select", "scatter", "roll"):
            return None
        if operation.name == "__getitem__" and _indexes_rows(operation.args[1:]):
            return None
        if operation.name in ("sort", "msort") and operation.inside is None:
            sorts.append(operation)
    if len(sorts) == 1 and sorts[0].inputs <= wanted and len(case.inputs.arguments) > 1:
        return sorts[0]
    return None


def _indexes_rows(index: Sequence[object]) -> bool:
    """Whether rows are picked by a tensor or cut, which chooses an order of its own."""
    if any(True for _ in tensors_in(list(index))):
        return True
    parts = [part for item in index for part in (item if isinstance(item, tuple) else (item,))]
    return any(isinstance(part, int) or part != slice(None) for part in parts[:1])
