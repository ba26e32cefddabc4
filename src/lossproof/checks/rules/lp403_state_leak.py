"""A call leaves something behind that changes, or breaks, the next one.

## What it does
Calls the loss several times in a row on the same inputs, as training does, and compares. It reports
a second call or second backward that fails where the first worked; an attribute, closure or global
that holds on to the graph of the call before and grows; an option of the constructor, a default
argument or a global that a call overwrites; and a process-wide setting (random seed, default dtype,
gradient mode) that a call leaves changed.

## Why it matters
A loss is called a million times. A list of losses with their graphs fills the memory; a weight that
is overwritten by its own gathered values has another shape at the second call; a fixed seed makes
every dropout mask of the network the same.

## Example
```python
def forward(self, input, target):
    loss = F.mse_loss(input, target)
    self.total = self.total + loss          # keeps the graph of every batch
    return loss
```

## Use instead
```python
    self.total = self.total + loss.detach()
```

## Not reported
State on purpose: running averages, counters and histories of plain numbers, queues and memory
banks, caches; an attribute that holds the last loss with its graph and is replaced by each call.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossproof.checks.report import Location, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.state import Change
from lossproof.checks.trace import tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

RULE = RULES["LP403"]
MOST_NODES = 20_000


def examine(case: Examination) -> Iterable[Verdict]:
    """Call twice and three times in the same state, and look at what is left."""
    found: list[Verdict] = list(_settings(case))
    if case.base.backward_error is None:
        second = case.evaluate(prelude=1, record=True)
        found += list(_kept_graph(case, second)) or list(_second_call(case, second))
        if not found:
            found += list(_overwritten(case, second))
    yield from found
    if found:
        return
    if case.base.backward_error is not None:
        yield RULE.unproved("the backward pass raised an exception")
    else:
        yield RULE.proved("a second call and its backward agree with the first")


def _settings(case: Examination) -> Iterator[Verdict]:
    for name in case.base.settings:
        yield RULE.finding(
            f"a call leaves `{name}` changed for the whole process",
            location=_line_with(case, rf"\b{name.rpartition('.')[2]}\b") or case.subject.location,
            cause="global-setting",
            help="change it for a block only (`with torch.no_grad(): ...`), or leave it alone",
        )
    seed = _reseeded(case)
    if seed is not None:
        yield RULE.finding(
            f"a call seeds the global random number generator (`{seed}`)",
            location=_line_with(case, rf"\b{seed.rpartition('.')[2]}\(") or case.subject.location,
            cause="global-seed",
            notes=("after every call, dropout and data augmentation draw the same numbers again",),
            help="use a `torch.Generator` of the loss's own: "
            "`torch.rand(n, generator=self.generator)`",
        )


def _reseeded(case: Examination) -> str | None:
    """A generator that is in one state after calls that began in two."""
    after = []
    for start in (1, 2):
        states = _generator_states()
        try:
            torch.manual_seed(start)
            random.seed(start)
            np.random.seed(start)
            case.evaluate(reseed=False, backward=False)
            state: Any = np.random.get_state()
            after.append(
                {
                    "torch.manual_seed": torch.get_rng_state().tolist(),
                    "random.seed": random.getstate(),
                    "numpy.random.seed": state[1].tolist(),
                }
            )
        finally:
            _restore_generators(states)
    one, other = after
    return next((name for name in one if one[name] == other[name]), None)


def _generator_states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _restore_generators(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


def _line_with(case: Examination, pattern: str) -> Location | None:
    """The first line of the loss's source that matches: no torch operation marks the place."""
    target: Any = case.subject.call
    target = getattr(target, "forward", target) if hasattr(target, "forward") else target
    if not (inspect.isfunction(target) or inspect.ismethod(target)):
        target = type(target).__call__
    return _line_in(target, pattern)


def _line_in(function: Any, pattern: str) -> Location | None:
    try:
        lines, first = inspect.getsourcelines(function)
        file = inspect.getsourcefile(function)
    except (OSError, TypeError):
        return None
    for offset, line in enumerate(lines):
        if re.search(pattern, line) and file is not None:
            return Location.at(file, first + offset, function=function.__qualname__)
    return None


def _kept_graph(case: Examination, second: Evaluation) -> Iterator[Verdict]:
    """Whether what is left after a call holds a graph that grows from call to call."""
    holders = [change for change in second.changes if _with_graph(change.after)]
    third = case.evaluate(prelude=2, record=True) if holders else None
    failed = bool(holders) and _runs_into_freed_graph(second)
    for change in holders:
        later = next((c for c in third.changes if c.path == change.path), None) if third else None
        growing = later is not None and _graph_size(later.after) > _graph_size(change.after)
        if failed or growing:
            yield _graph_finding(case, change, failed)
            return


def _graph_finding(case: Examination, change: Change, failed: bool) -> Verdict:
    return RULE.finding(
        f"`{change.path}` keeps the graph of the calls before",
        severity=Severity.ERROR if failed else Severity.WARNING,
        location=_written_at(case, change) or case.subject.location,
        cause="graph-kept",
        evidence={"nodes": _graph_size(change.after)},
        notes=(
            "the second backward pass runs into the first call's graph and raises"
            if failed
            else "memory grows with every call until it is full",
        ),
        help="store numbers without their history: `.detach()` or `.item()`",
    )


def _written_at(case: Examination, change: Change) -> Location | None:
    """The line of the loss, or of a method of its class, that writes what was changed."""
    name = re.escape(_name(change))
    pattern = rf"\b{name}(\[.*?\])*(\s*[-+*/]?=(?!=)|\.(append|extend|add|update|insert)\w*\()"
    found = _line_with(case, rf"^(?!\s*(def|class)\b).*{pattern}")
    if found is not None:
        return found
    for cls in type(case.subject.call).__mro__:
        for function in vars(cls).values():
            if not inspect.isfunction(function) or function.__name__ == "__init__":
                continue
            if case.subject.sources.owns(function.__code__.co_filename):
                found = _line_in(function, rf"\.{pattern}")
                if found is not None:
                    return found
    return None


def _name(change: Change) -> str:
    """The last name of the path: `total` of `self.memory.total`, `table` of `self.table['a']`."""
    return change.path.partition("[")[0].rpartition(".")[2]


def _with_graph(value: Any) -> bool:
    return any(tensor.grad_fn is not None for tensor in tensors_in(_plain(value)))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, set) else value


def _nodes(value: Any) -> set[Any]:
    """The nodes of the graph behind the tensors of a value."""
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors_in(_plain(value))]
    seen: set[Any] = set()
    while waiting and len(seen) < MOST_NODES:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return seen


def _graph_size(value: Any) -> int:
    return len(_nodes(value))


def _runs_into_freed_graph(second: Evaluation) -> bool:
    """Whether `backward()` of the second call goes back into the graph of the first, and raises.

    The gradient for the second call's own inputs does not go there; `backward()` goes everywhere.
    """
    if second.value is None or second.upstream is None or not second.value.requires_grad:
        return False
    leaves = [node.variable for node in _nodes(second.value) if hasattr(node, "variable")]
    try:
        torch.autograd.grad(
            second.value, leaves, second.upstream, retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        return "second time" in str(error)
    return False


def _second_call(case: Examination, second: Evaluation) -> Iterator[Verdict]:
    error = second.error or second.backward_error
    if error is None:
        return
    changed = [change for change in case.base.changes if _reshaped(change)] or case.base.changes
    what = f"after it changed `{changed[0].path}`" if changed else "on the same inputs"
    notes = [f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"]
    location = case.where(error)
    if changed:
        location = _written_at(case, changed[0]) or location
        notes += _shape_note(changed[0])
    yield RULE.finding(
        f"the first call works, the second one raises {what}",
        location=location,
        cause="second-call",
        notes=notes,
        help="use a local variable: `forward` should read `self`, not write it",
    )


def _reshaped(change: Change) -> bool:
    before, after = change.before, change.after
    return (
        isinstance(before, torch.Tensor)
        and isinstance(after, torch.Tensor)
        and before.shape != after.shape
    )


def _shape_note(change: Change) -> list[str]:
    if not _reshaped(change):
        return []
    return [
        f"`{change.path}` had shape {list(change.before.shape)} before the call and "
        f"{list(change.after.shape)} after it"
    ]


def _overwritten(case: Examination, second: Evaluation) -> Iterator[Verdict]:
    """Options, default arguments and globals whose new value changes the loss."""
    first = case.base
    if first.value is None or second.value is None:
        return
    if first.value.shape == second.value.shape and torch.allclose(
        first.value, second.value, rtol=1e-5, atol=0, equal_nan=True
    ):
        return
    for change in second.changes:
        if change.kind == "new" or not _is_setting(case, change):
            continue
        yield RULE.finding(
            f"a call overwrites `{change.path}`, and the next call on the same inputs gives "
            "another value",
            severity=Severity.WARNING,
            location=_written_at(case, change) or case.subject.location,
            cause="overwritten",
            evidence={"first": first.scalar, "second": second.scalar},
            notes=(f"{first.scalar:.6g} at the first call, {second.scalar:.6g} at the second",),
            help="use a local variable: `forward` should read `self`, not write it",
        )
        return


def _is_setting(case: Examination, change: Change) -> bool:
    """Whether the user set this, and did not ask for it to move: no average, counter or queue."""
    if not change.path.startswith("self."):
        return True
    name = _name(change)
    options = inspect.signature(type(case.subject.call)).parameters
    return name in options or _reshaped(change)
