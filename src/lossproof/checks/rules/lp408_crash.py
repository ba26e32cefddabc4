"""The loss raises an exception, never ends, or takes the interpreter down.

## What it does
Calls the loss on the given inputs and sends a gradient backward. Whatever is raised is reported
with the line of the loss that raised it and the shapes and types it was called with. A loss that
runs past the time limit is reported with the line it was at; on the command line, where a check
runs in a process of its own, so is one that kills the interpreter.

## Why it matters
A loss that raises on ordinary inputs was never run, or was run on other inputs than these.

## Example
```python
def mse(output, label):
    return torch.mean(torch.pow(output - label), 2)     # the exponent is outside `pow`
```

## Use instead
```python
def mse(output, label):
    return torch.mean(torch.pow(output - label, 2))
```

## Not reported
A failing backward that another rule explains (LP207 a misused `autograd.Function`, LP402 a tensor
changed in place, LP403 a graph kept from the call before).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.examination import EndsProgramError
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP408"]


def examine(case: Examination) -> Iterable[Verdict]:
    """Report what the call or its backward pass raised."""
    base = case.base
    if isinstance(base.error, EndsProgramError):
        yield _ends_program(case, base.error)
    elif base.error is not None:
        yield _finding(case, base.error, "raised", "")
    elif base.backward_error is not None:
        yield _finding(case, base.backward_error, "backward-raised", " in its backward pass")
    else:
        yield RULE.proved("ran forward and backward on the given inputs")


def _ends_program(case: Examination, error: EndsProgramError) -> Verdict:
    return RULE.finding(
        f"`{case.subject.name}` raises `{error}`, which ends the program",
        location=case.where(error),
        cause="ends-program",
        evidence={"exception": str(error)},
        help="raise an error, such as `ValueError`, where the inputs are at fault",
    )


def _finding(case: Examination, error: Exception, cause: str, when: str) -> Verdict:
    text = str(error).strip().partition("\n")[0].rstrip(".") or "no message"
    inputs = "; ".join(str(argument) for argument in case.inputs.arguments)
    return RULE.finding(
        f"`{case.subject.name}` raises {type(error).__name__}{when}: {text}",
        location=case.where(error),
        cause=cause,
        evidence={"exception": type(error).__name__},
        notes=(f"called with {inputs}",),
        help="if these inputs are not what the loss expects, give others; else mend this line",
    )
