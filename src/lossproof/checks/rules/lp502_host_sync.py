"""Python waits for a number that the device has yet to compute.

## What it does
Finds where the call turns a tensor that was computed from the inputs into a Python value
(`.item()`, `float(...)`, `int(...)`, `if tensor:`, `.tolist()`, `.numpy()`, `.cpu()`, `print`).

## Why it matters
On a GPU, operations are queued and Python runs ahead. A Python value cannot be had before the
queue is empty, so each of these lines makes the two wait for each other; inside a loop it does so
in every round. It also ends the graph that `torch.compile` can make of the loss.

## Example
```python
def masked_mse(input, target, mask):
    if mask.sum() == 0:
        return (input * 0).sum()
    return ((input - target) ** 2)[mask].mean()
```

## Use instead
Let tensors decide:
```python
    squares = torch.where(mask, (input - target) ** 2, 0)
    return squares.sum() / mask.sum().clamp(min=1)
```

## Not reported
A number that is needed to refuse bad input (the test of an `if` that raises, an `assert`); a value
that also takes the gradient away, which LP201 or LP204 reports; numbers of which the loss was given
Python values; what `lossproof.fuse`, `chunk` and `pairs` look at in the first call of a loss, to
refuse what they cannot accelerate; boolean indexing and `nonzero`, which wait on a GPU as well but
often have no other form.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from lossproof.checks.report import Location, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import syntax_tree
from lossproof.checks.trace import Operation

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP502"]
WAITING = {
    "item": "`.item()`", "__float__": "`float(...)`", "__int__": "`int(...)`",
    "__bool__": "the truth of a tensor", "__index__": "the use of a tensor as an index",
    "tolist": "`.tolist()`", "numpy": "`.numpy()`", "__array__": "the conversion to numpy",
    "cpu": "`.cpu()`", "is_nonzero": "`is_nonzero`", "equal": "`torch.equal`",
    "allclose": "`torch.allclose`", "__contains__": "`in`", "__repr__": "printing a tensor",
    "__format__": "printing a tensor",
}  # fmt: skip
"""Operations that give Python a number, in words."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Look for the lines at which Python waits."""
    convicted = {stop.operation.index for stop in case.trace.stops if not stop.discrete}
    waits: dict[tuple[str, int], list[Operation]] = {}
    for operation in case.trace.operations:
        place = operation.site.location
        if operation.name not in WAITING or operation.index in convicted or place is None:
            continue
        if operation.site.accelerated:
            continue
        if operation.inputs and not _refuses_input(place):
            waits.setdefault((place.file, place.line), []).append(operation)
    if not waits:
        yield RULE.proved(f"none of {len(case.trace.operations)} operations gives Python a number")
        return
    # A loop waits in every round: the line that waits most often is the one to mend first.
    for operations in sorted(waits.values(), key=len, reverse=True):
        yield _finding(operations)


def _finding(operations: list[Operation]) -> Verdict:
    names = Counter(WAITING[operation.name] for operation in operations)
    what = names.most_common(1)[0][0]
    often = f" {len(operations)} times in one call" if len(operations) > 1 else ""
    return RULE.finding(
        f"{what} makes Python wait for the device{often}",
        severity=Severity.PERFORMANCE,
        location=operations[0].site.location,
        cause="python-value",
        evidence={"times": len(operations)},
        help="keep the number a tensor: `torch.where` instead of `if`, `.clamp(min=1)` instead of "
        "a test for 0, `.detach()` for what is only logged",
    )


def _refuses_input(place: Location) -> bool:
    """Whether the value only decides whether to raise an error."""
    return any(first <= place.line <= last for first, last in _refusals(syntax_tree(place.file)))


@lru_cache(maxsize=16)
def _refusals(tree: ast.Module) -> tuple[tuple[int, int], ...]:
    """The lines of every ``assert``, and of the test of every ``if`` that raises."""
    nodes: list[ast.expr | ast.stmt] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            nodes.append(node)
        elif isinstance(node, ast.If) and any(isinstance(inner, ast.Raise) for inner in node.body):
            nodes.append(node.test)
    return tuple((node.lineno, node.end_lineno or node.lineno) for node in nodes)
