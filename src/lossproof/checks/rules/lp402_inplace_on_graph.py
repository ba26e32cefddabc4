"""A tensor that others still need is changed in place.

## What it does
Reports three things. Autograd's refusal (*one of the variables needed for gradient computation has
been modified by an inplace operation*), with the line that wrote, not only the operation that
needed the old value. An in-place operation on a leaf. And the quiet form: `total = part` followed
by `total += other`, where both names are one tensor, so that `part` changes, too, and is read
afterwards.

## Why it matters
The first two stop the training. The third does not: the gradient is right, and the logged value of
`part` is the total.

## Example
```python
classification = F.cross_entropy(logits, target)
loss = classification
loss += F.smooth_l1_loss(box, box_target)       # `classification` is now the sum, too
log({"classification": classification.item()})
```

## Use instead
```python
loss = classification + F.smooth_l1_loss(box, box_target)
```

## Not reported
In-place operations on tensors with one name that nothing else reads; writes into the inputs, which
are LP401.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.trace import Write

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP402"]
REFUSALS = ("modified by an inplace operation", "in-place operation", "a view of a leaf")


def examine(case: Examination) -> Iterable[Verdict]:
    """Report refusals of autograd, then tensors with two names."""
    base = case.base
    error = base.error or base.backward_error
    if error is not None and any(text in str(error) for text in REFUSALS):
        yield _refused(case, error)
        return
    if base.error is not None:
        yield RULE.unproved("the loss raised an exception")
        return
    aliased = [(write, name) for write in case.trace.writes for name in _read_afterwards(write)]
    for write, name in aliased[:1]:
        yield _aliased(write, name)
    if not aliased:
        yield RULE.proved(f"{len(case.trace.writes)} in-place operations, none on a shared tensor")


def _refused(case: Examination, error: Exception) -> Verdict:
    write = _culprit(case) if case.base.backward_error is not None else None
    location = write.operation.site.location if write else case.where(error)
    operation = write.operation.name if write else "an in-place operation"
    text = str(error).partition(". Hint")[0].partition("\n")[0]
    saved = text.partition("which is ")[2].partition(", is at version")[0]
    what = f" ({saved})" if saved else ""
    return RULE.finding(
        f"`{operation}` changes a tensor{what} that the backward pass needs unchanged"
        if case.base.backward_error is not None
        else "an in-place operation on a tensor that autograd does not allow to be changed",
        location=location,
        cause="needed-for-backward",
        evidence={"exception": type(error).__name__},
        notes=(f"autograd says: {text}",),
        help="make a new tensor instead: `x = x + y` for `x += y`, `x.clamp(0)` for "
        "`x.clamp_(0)`, or write into a `.clone()`",
    )


def _culprit(case: Examination) -> Write | None:
    """The last write into a tensor with a history: the others cannot upset a backward pass."""
    with_history = [
        write
        for write in case.trace.writes
        if write.target.grad_fn is not None or write.input is not None
    ]
    return with_history[-1] if with_history else None


def _read_afterwards(write: Write) -> list[str]:
    """The other names of the written tensor that the function reads after the write."""
    if len(write.names) < 2 or write.target.grad_fn is None or write.input is not None:
        return []
    location = write.operation.site.location
    if location is None:
        return []
    nodes = list(ast.walk(_tree(write)))
    written = {
        node.target.id
        for node in nodes
        if isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Name)
        and node.lineno == location.line
    }
    read = {
        node.id
        for node in nodes
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and node.lineno > location.line
    }
    return [name for name in write.names if name in read - written] if written else []


def _tree(write: Write) -> ast.AST:
    """The syntax tree of the function that wrote, with the file's line numbers."""
    own = write.operation.site.own
    if own is None:
        return ast.Module([], [])
    try:
        lines, first = inspect.getsourcelines(own[0])
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return ast.Module([], [])
    return ast.increment_lineno(tree, max(first, 1) - 1)


def _aliased(write: Write, name: str) -> Verdict:
    others = [other for other in write.names if other != name]
    written = others[0] if others else "it"
    return RULE.finding(
        f"`{written}` and `{name}` are one tensor, and this changes both",
        severity=Severity.WARNING,
        location=write.operation.site.location,
        cause="two-names",
        evidence={"names": ", ".join(write.names)},
        notes=(f"`{name}` is read afterwards and holds the changed value",),
        help=f"make a new tensor: `{written} = {written} + ...` instead of `{written} += ...`",
    )
