"""The loss is not one number.

## What it does
Looks at what the loss returns for the given batch: it must be one tensor with one element.

## Why it matters
`backward()` starts from one number. On anything larger it raises *grad can be implicitly created
only for scalar outputs*, and a loss that keeps the batch axis has one element only when the batch
has one sample: it works in the first test and fails in training. A tuple that a trailing comma
made, or a container without a number to start from, fails the same way.

## Example
```python
def margin_loss(scores, target, margin=0.1):
    right = scores.gather(1, target[:, None])
    return (scores - right + margin).clamp(min=0)      # shape [N, C]
```

## Use instead
```python
    return (scores - right + margin).clamp(min=0).mean()
```
To keep one value per item on purpose, give the loss a `reduction` option and return the values for
`reduction="none"`. To send such a vector backward, say with which weights:
`loss.backward(gradient=torch.ones_like(loss))`.

## Not reported
A loss whose `reduction` is `"none"`, also where the option sits in the torch function that makes
the result; one whose docstring gives the shape of what it returns (`Returns: ... shape (B,)`), and
not as a scalar; the loss together with its parts or with what is to be logged (`return loss,
parts`, `{"loss": ...}`), which the report tells under *unproved*; a result with one element and
extra axes (shape `[1]`), which `backward()` accepts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossproof.checks.reach import reaches
from lossproof.checks.report import Location
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination
from lossproof.write.accelerated import Accelerated

RULE = RULES["LP101"]
RETURNED = re.compile(
    r"^[ \t-]*(?:returns?|outputs?)\b(?:(?!\n\s*\n).)*?(?:\bshape\b|\(\*|\([NB]\b).*?$",
    re.I | re.M | re.S,
)
"""The part of a docstring that says what shape comes back, up to an empty line."""
SCALAR = re.compile(r"scalar|\(1,?\)|\(\)|\[1?\]", re.I)
MENDS = {
    "generator": "the function has a `yield` and so runs only when it is iterated over: `return`",
    "coroutine": "the function is `async` and so runs only when it is awaited: leave out `async`",
    "ndarray": "compute with torch operations: numpy has no gradient",
}


def examine(case: Examination) -> Iterable[Verdict]:
    """Judge the type and the shape of what the loss returns."""
    output = case.base.output
    if output is None:
        yield RULE.finding(
            f"`{case.subject.name}` returns None",
            location=case.subject.location,
            cause="no-return",
            help="return the loss: a `return` statement is missing, or is not reached",
        )
    elif isinstance(case.subject.call, Accelerated) and hasattr(case.subject.call, "pair_fn"):
        yield RULE.not_applicable("a reduction over pairs returns one value for each row")
    elif isinstance(output, (tuple, list, dict)):
        yield _container(case, output)
    elif not isinstance(output, torch.Tensor):
        yield _other(case, output)
    elif output.is_complex():
        yield RULE.finding(
            f"`{case.subject.name}` returns a complex number",
            location=_made(case, output) or case.subject.location,
            cause="complex",
            evidence={"dtype": str(output.dtype)},
            help="a loss is a real number: take `.abs()`, `.real`, or `torch.view_as_real(...)`",
        )
    elif output.numel() == 1:
        yield RULE.proved(f"one element, shape {list(output.shape)}")
    elif _unreduced_on_purpose(case, output):
        yield RULE.not_applicable('`reduction="none"`: one value per item on purpose')
    elif _documented(case):
        yield RULE.not_applicable("its docstring says that it returns a tensor of this shape")
    else:
        yield _vector(case, output)


def _container(case: Examination, output: Any) -> Verdict:
    kind = type(output).__name__
    access = '["loss"]' if isinstance(output, dict) and "loss" in output else "[0]"
    if isinstance(output, dict) and access == "[0]":
        access = f"[{next(iter(output), None)!r}]"
    if (len(output) > 1 or isinstance(output, dict)) and _starts_backward(case):
        return RULE.unproved(
            f"a {kind} of {len(output)} is returned: the rest of this check looks at element "
            f"`{access}`, which is one number"
        )
    return RULE.finding(
        f"`{case.subject.name}` returns a {kind} of {len(output)}, not one tensor",
        location=case.subject.location,
        cause="container",
        evidence={"type": kind, "length": len(output)},
        notes=(f"the rest of this check looks at element `{access}`",),
        help="return the scalar alone and keep the parts for logging elsewhere, or check the "
        f"scalar: `lambda *inputs: loss(*inputs){access}`",
    )


def _starts_backward(case: Examination) -> bool:
    """Whether what the check looks at is one number, with a graph where an input brings one."""
    value = case.base.value
    if value is None or value.numel() != 1:
        return False
    return value.requires_grad or not case.leaf_names


def _other(case: Examination, output: Any) -> Verdict:
    kind = type(output).__name__
    number = isinstance(output, (int, float, np.number)) and not isinstance(output, bool)
    if number and any(r.kind in ("cut", "flat") for r in reaches(case)):
        return RULE.not_applicable(
            f"the loss is of type {kind}: LP201 or LP204 says what made it so"
        )
    return RULE.finding(
        f"`{case.subject.name}` returns `{kind}`, not a tensor",
        location=case.subject.location,
        cause="no-tensor",
        evidence={"type": kind},
        help=MENDS.get(kind, "return the tensor that the loss is: `backward()` starts from it"),
    )


def _made(case: Examination, output: torch.Tensor) -> Location | None:
    """The operation that made the result."""
    made = case.trace.results.get(id(output))
    return made[0].site.location if made else None


def _unreduced_on_purpose(case: Examination, output: torch.Tensor) -> bool:
    if case.subject.option("reduction") == "none":
        return True
    made = case.trace.results.get(id(output))
    return made is not None and made[0].unreduced


def _documented(case: Examination) -> bool:
    """Whether the loss's own docstring gives the shape of its result, and not as a scalar."""
    said = RETURNED.search(inspect.getdoc(case.subject.origin) or "")
    return said is not None and SCALAR.search(said[0]) is None


def _vector(case: Examination, output: torch.Tensor) -> Verdict:
    return RULE.finding(
        f"`{case.subject.name}` returns shape {list(output.shape)}, and `backward()` needs one "
        "number",
        location=_made(case, output) or case.subject.location,
        cause="not-reduced",
        evidence={"shape": str(list(output.shape)), "elements": output.numel()},
        notes=("with a batch of one sample the same code has one element and works",)
        if output.dim() and output.shape[0] == _batch(case)
        else (),
        help="reduce it: `.mean()`, or take a `reduction` option and return this for "
        '`reduction="none"`;\nto send a vector backward, call '
        "`loss.backward(gradient=torch.ones_like(loss))`",
    )


def _batch(case: Examination) -> int | None:
    shapes = [v.shape for v in case.inputs.values if isinstance(v, torch.Tensor) and v.dim()]
    return shapes[0][0] if shapes else None
