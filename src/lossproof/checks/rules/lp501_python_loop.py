"""A Python loop does per sample what one tensor operation does for all.

## What it does
Counts how often every line performs torch operations in one call. A loop with 8 rounds or more is
reported where its operations grow with the batch (the same loss is called on twice the samples), or
where it runs once for each position, class or pair along an axis of the inputs.

## Why it matters
Each torch operation costs some microseconds before it computes anything, and as much again in the
backward pass. A loop over 8 x 60 elements spends milliseconds on what takes microseconds, and on a
GPU it leaves the device idle.

## Example
```python
def cross_entropy(logits, target):
    loss = 0
    for i in range(len(target)):
        loss = loss - torch.log_softmax(logits[i], 0)[target[i]]
    return loss / len(target)
```

## Use instead
Work on the whole axis at once:
```python
    return -torch.log_softmax(logits, 1).gather(1, target[:, None]).mean()
```
Where that is awkward, write the body for one sample and let `torch.vmap` run it over the batch. The
finding shows the loss written so where it can be derived from the source: a loop that adds to a sum
or fills a list, with `if` on the value of an element as `torch.where`. It was run on the inputs of
the check before, and gave the same value and gradient there; how many times as fast it is, is in
the evidence.

## Not reported
Loops with fewer than 8 rounds (scales of a pyramid, terms of a sum); loops whose number of rounds
has nothing to do with the inputs, such as the steps of a solver. The loop is reported as a matter
of speed, not as a mistake: a recurrence, in which each round needs the one before, has to stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.batch import batch_of
from lossproof.checks.loops import Vectorised, vectorised
from lossproof.checks.repetition import Repetition, RepetitionCounter
from lossproof.checks.report import Number, Severity
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP501"]
SKETCH = (
    "index and reduce whole tensors instead of looping over their elements; or write the body for "
    "one item and run it over all with `torch.vmap`"
)
ROUNDS = 8
"""A loop with fewer rounds costs little, however it is written."""
GROWTH = 1.5
"""Twice the samples must give so many times the operations: less is overhead around the loop."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Look for a loop whose rounds come from the inputs."""
    values = case.small.values
    counter = _counted(case, values)
    loops = counter.repetitions(ROUNDS)
    if not loops:
        yield RULE.proved(f"no line performs operations {ROUNDS} times in one call")
        return
    doubled = _doubled(case)
    for loop in loops:
        if doubled is not None and _operations_at(doubled, loop) >= GROWTH * loop.operations:
            yield _finding(case, counter, loop, "grows with the batch", "batch")
            return
        axis = _axis(case, values, loop.rounds)
        if axis is not None:
            yield _finding(case, counter, loop, f"runs once for each element along {axis}", "axis")
            return
    yield RULE.not_applicable(
        f"a loop with {loops[0].rounds} rounds ({loops[0].location}) does not follow the inputs"
    )


def _counted(case: Examination, values: tuple[Any, ...]) -> RepetitionCounter:
    counter = RepetitionCounter(case.subject.sources)
    with counter:
        case.evaluate(values, backward=False)
    return counter


def _doubled(case: Examination) -> RepetitionCounter | None:
    """The counts for twice the samples; ``None`` where there is no batch or the loss fails."""
    batch = batch_of(case)
    if batch is None:
        return None
    values = batch.repeated(case.small.values, 2)
    if case.evaluate(values, backward=False).error is not None:
        return None
    return _counted(case, values)


def _operations_at(counter: RepetitionCounter, loop: Repetition) -> int:
    found = (other for other in counter.repetitions(1) if other.location == loop.location)
    return next((other.operations for other in found), 0)


def _axis(case: Examination, values: tuple[Any, ...], rounds: int) -> str | None:
    """An axis of an input that is as long as the loop, or several of which it is the product."""
    for argument, value in zip(case.inputs.arguments, values, strict=True):
        for sizes, named in _sizes(value):
            if sizes == rounds:
                return f"{named} of `{argument.name}`"
    return None


def _sizes(value: Any) -> Iterator[tuple[int, str]]:
    if isinstance(value, torch.Tensor):
        yield from ((size, f"axis {axis}") for axis, size in enumerate(value.shape))
        product = 1
        for axis, size in enumerate(value.shape):
            product *= size
            if axis:
                yield product, f"the first {axis + 1} axes"
    elif isinstance(value, (list, tuple)):
        yield len(value), "the items"


def _finding(
    case: Examination, counter: RepetitionCounter, loop: Repetition, how: str, cause: str
) -> Verdict:
    mend = vectorised(case, loop.location)
    evidence: dict[str, Number] = {
        "rounds": loop.rounds,
        "operations": loop.operations,
        "operations_in_all": counter.total,
    }
    if mend is not None:
        evidence |= {
            "seconds": mend.before,
            "seconds_with_vmap": mend.after,
            "times_faster": mend.times,
        }
    return RULE.finding(
        f"a Python loop performs {loop.operations} of {counter.total} operations and {how}",
        severity=Severity.PERFORMANCE,
        location=loop.location,
        cause=cause,
        evidence=evidence,
        notes=() if mend is None else (_gain(mend),),
        help=SKETCH if mend is None else _shown(mend),
    )


def _gain(mend: Vectorised) -> str:
    return (
        f"with `torch.vmap` in its place, value and gradient take {_readable(mend.after)} instead "
        f"of {_readable(mend.before)}: {mend.times:.3g} times as fast, on these inputs"
    )


def _shown(mend: Vectorised) -> str:
    return (
        "run the body over all items at once; tried on these inputs, with the same value and "
        f"gradient:\n{mend.code}"
    )


def _readable(seconds: float) -> str:
    """A time for people.

    Example:
        >>> _readable(0.068), _readable(0.00018)
        ('68 ms', '0.18 ms')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
