"""The loss cannot be compiled as one graph.

## What it does
Traces the loss with TorchDynamo and reports every line at which the graph ends and a new one
begins. That takes seconds where a whole check takes a tenth of one, so it happens only where it was
asked for: `--select LP503`.

## Why it matters
A compiled loss fuses its operations into a few sweeps over memory. A break in the middle gives up
the fusion across it, and goes back to Python in each step; under `fullgraph=True` it is an error.

## Example
```python
def huber(input, target):
    difference = (input - target).abs()
    if difference.max() < 1:                    # a branch on a number that the graph computes
        return (difference ** 2 / 2).mean()
    return torch.where(difference < 1, difference ** 2 / 2, difference - 0.5).mean()
```

## Use instead
Leave the choice to a tensor (`torch.where`), the number a tensor (no `.item()`), and logging and
file access outside of the loss.

## Not reported
What runs once: a break that lies in the first call only, such as a warning or a lazy import. Where
`lossproof.chunk` or `lossproof.pairs` computes a loss in parts: that ends the graph by design, so
the loss as it was written is traced instead.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.as_written import as_written
from lossproof.checks.global_state import untouched_globals
from lossproof.checks.report import Location, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import accelerates

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP503"]


def examine(case: Examination) -> Iterable[Verdict]:
    """Ask TorchDynamo where the graph breaks."""
    if RULE.code not in case.asked:
        yield RULE.not_applicable("it takes seconds and is done where asked for: `--select LP503`")
        return
    if case.subject.kind == "autograd.Function":
        yield RULE.not_applicable("an `autograd.Function` by itself is not compiled")
        return
    case = as_written(case)
    try:
        explained = _explained(case)
    except Exception as error:
        yield RULE.unproved(f"TorchDynamo failed: {type(error).__name__}: {_first_line(error)}")
        return
    breaks = list(_breaks(case, explained))
    by_design = [one for one in explained.break_reasons if _by_design(one)]
    if not breaks and by_design:
        yield RULE.not_applicable(
            f"{len(by_design)} breaks lie within `lossproof.speed`, by design; none in the loss"
        )
    elif not breaks:
        yield RULE.proved(f"one graph of {explained.op_count} operations")
    yield from breaks


def _explained(case: Examination) -> Any:
    import torch._dynamo

    arguments, _ = case.fresh(case.small.values, None)
    compiling = untouched_globals(case.seed, compiled=True)
    with compiling, case.subject.state.lent(None), _silently():
        # A first call is made outside of the trace: it may import or warn once.
        case.subject.call(*arguments)
        return torch._dynamo.explain(case.subject.call)(*arguments)


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Keep TorchDynamo quiet, and let it forget afterwards what it has traced."""
    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.compiler.reset()


def _breaks(case: Examination, explained: Any) -> Iterator[Verdict]:
    for reason in explained.break_reasons:
        if not reason.graph_break or _by_design(reason):  # the end of the function
            continue
        yield RULE.finding(
            f"the graph breaks: {_words(reason.reason)}",
            severity=Severity.PERFORMANCE,
            location=_place(case, reason.user_stack) or case.subject.location,
            cause="graph-break",
            evidence={"graphs": explained.graph_count, "breaks": explained.graph_break_count},
            help="let tensors decide (`torch.where`) and stay tensors (no `.item()`); "
            "`torch.compile(loss, fullgraph=True)` then says whether one graph is left",
        )


def _by_design(reason: Any) -> bool:
    """Whether the graph ends within ``lossproof.speed``, which the compiler is not to look into."""
    stack = list(reason.user_stack)
    return bool(reason.graph_break and stack and accelerates(stack[-1].filename))


def _place(case: Examination, stack: Iterable[Any]) -> Location | None:
    own = [frame for frame in stack if case.subject.sources.owns(frame.filename)]
    return Location.at(own[-1].filename, own[-1].lineno, function=own[-1].name) if own else None


def _words(reason: str) -> str:
    """TorchDynamo's reason, in the user's words where it speaks of its own instructions."""
    if reason.startswith("generic_jump"):
        return "a branch depends on the value of a tensor"
    return _first_line(reason)


def _first_line(reason: object) -> str:
    return str(reason).strip().partition("\n")[0].strip()
