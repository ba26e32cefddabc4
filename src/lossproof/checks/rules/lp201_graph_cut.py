"""The value depends on an input, but no gradient reaches it.

## What it does
Asks for every input that a gradient is wanted for whether a small change of it changes the value.
Where it does and no gradient arrives, the graph was cut: by `.item()`, `float()`, `.numpy()`,
`.tolist()`, `.detach()`, `.data`, `torch.tensor(...)` of a tensor, a `no_grad` block. The line is
proved by replay: with what left the graph there held fixed, the value no longer depends on the
input. It also reports a term that is added to the loss but stopped: its number is logged, its
gradient is thrown away.

## Why it matters
Nothing fails while another input still carries a gradient. The part of the network behind the cut
does not learn, and the weight of the stopped term has no effect.

## Example
```python
def reinforce(log_prob, reward):
    return torch.tensor([-(p.item() * r) for p, r in zip(log_prob, reward)]).mean()
```

## Use instead
```python
def reinforce(log_prob, reward):
    return -(log_prob * reward).mean()
```
The loss itself needs no `requires_grad=True`: it has a gradient because one of its inputs has. A
loss that needs it to be set was cut before.

## Not reported
A value that is stopped on purpose while the input still gets a gradient another way: the weight of
a focal loss, the normaliser of an adaptive loss, CIoU's alpha, a stop-gradient target, the maximum
that is subtracted for stability, a straight-through estimator. An input that is called a teacher, a
target, a next value or the like and of which `.detach()` is taken, or which is used under
`no_grad`, while another input gets a gradient, or that is detached as it is and faces one of its
own shape that gets a gradient (the two views of SimSiam): the report says so under *unproved*. A
stopped value that may not be changed by a little, such as a variance near 0, is not taken for an
added term.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.reach import LostTerm, Reach, lost_terms, reaches, why_unreachable
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.trace import Stop

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP201"]

CONSTANT = re.compile(
    r"teacher|target|(?:^|_)(?:next|old|ref|reference|baseline|bootstrap|ema|momentum|frozen|prior|"
    r"tgt|trg|gt|label|y)s?(?:_|$)|returns?$|rewards?$|advantages?$",
    re.I,
)
"""What people call an input that must not be trained through."""

MENDS = {
    "item": "keep the tensor: without `.item()` the arithmetic stays in the graph",
    "tolist": "compute on the tensor itself instead of on a list of Python numbers",
    "numpy": "use the torch function of the same name; numpy has no gradient",
    "__array__": "use the torch function of the same name; numpy has no gradient",
    "__float__": "keep the tensor: without `float(...)` (or `math....`) it stays in the graph",
    "detach": "leave out `.detach()` where this value should be trained",
    "detach_": "leave out `.detach_()` where this value should be trained",
    "data": "use the tensor itself instead of its `.data`",
    "tensor": "combine tensors with `torch.stack` or `torch.cat`, not with `torch.tensor`",
    "as_tensor": "combine tensors with `torch.stack` or `torch.cat`, not with `torch.as_tensor`",
}


def examine(case: Examination) -> Iterable[Verdict]:
    """Report cut leaves, one finding for each line, then terms whose gradient is lost."""
    if not case.leaf_names:
        yield RULE.not_applicable("no input is a floating tensor, so there is no gradient")
        return
    obstacle = why_unreachable(case)
    if obstacle is not None:
        yield RULE.unproved(obstacle)
        return
    lines = set()
    for reach in reaches(case):
        place = reach.location or reach.leaf
        if reach.kind != "cut":
            continue
        if _on_purpose(case, reach):
            yield RULE.unproved(
                f"`{reach.name}` is detached where it is used, so no gradient reaches it: taken as "
                "a constant on purpose, such as a teacher or a bootstrapped target"
            )
        elif reach.leaf in case.base.written:
            yield RULE.unproved(
                f"the graph does not lead to `{reach.name}`: its gradient is written in the "
                "forward pass, see LP203"
            )
        elif not reach.culprits and case.calls:
            yield RULE.unproved(
                f"no gradient reaches `{reach.name}`, and nothing outside an `autograd.Function` "
                "stops it: see LP202"
            )
        elif place not in lines:
            lines.add(place)
            yield _finding(case, reach)
    if not any(reach.kind == "cut" for reach in reaches(case)):
        yield from _lost_or_proved(case)


def _on_purpose(case: Examination, reach: Reach) -> bool:
    """Whether what is held constant, such as a teacher, is detached while another is not.

    Its name says so, or it is detached as it came in and faces an input of its own shape, as the
    projection of one view faces the prediction of the other.
    """
    argument = case.argument_of_leaf(reach.leaf)
    others = [case.argument_of_leaf(r.leaf) for r in reaches(case) if r.kind == "connected"]
    if argument is None or not any(others) or not reach.culprits:
        return False
    position = case.inputs.arguments.index(argument)
    wanted = set(case.inputs.differentiable)
    if any(stop.inputs & wanted != {position} for stop in reach.culprits):
        return False
    if CONSTANT.search(argument.name):
        return all(stop.operation.name == "detach" or stop.no_grad for stop in reach.culprits)
    if any(stop.operation.name != "detach" for stop in reach.culprits):
        return False
    shapes = [other.value.shape for other in others if other is not None]
    return argument.value.shape in shapes and all(
        _is_untouched(case, stop) for stop in reach.culprits
    )


def _is_untouched(case: Examination, stop: Stop) -> bool:
    """Whether what is detached is an input as it came in, and no result of an operation."""
    trace = case.twin.trace
    made = trace.results if trace is not None else {}
    return bool(stop.operation.args) and id(stop.operation.args[0]) not in made


def _lost_or_proved(case: Examination) -> Iterable[Verdict]:
    terms = lost_terms(case)
    yield from map(_lost, terms)
    names = ", ".join(f"`{r.name}`" for r in reaches(case) if r.kind == "connected")
    if names and not terms:
        yield RULE.proved(f"the gradient reaches {names}")
    elif not terms:
        yield RULE.not_applicable("the value does not change with small changes of any input")


def _finding(case: Examination, reach: Reach) -> Verdict:
    stop = reach.culprits[0] if reach.culprits else None
    connected = [r.name for r in reaches(case) if r.kind == "connected"]
    cut = [r.name for r in reaches(case) if r.kind == "cut" and r.culprits == reach.culprits]
    names = ", ".join(f"`{name}`" for name in cut)
    notes = [f"the value changes by {reach.derivative:.4g} along a random direction of "
             f"`{reach.name}`; the gradient says 0"]  # fmt: skip
    if stop is not None:
        notes.append(
            "with what leaves the graph here held fixed, the value no longer depends on it"
        )
    if not connected:
        notes.append("nothing that the loss returns has a gradient: `backward()` raises")
    library = stop.operation.site.library_location if stop else None
    return RULE.finding(
        f"{_what(stop)} cuts the graph: no gradient reaches {names}",
        location=reach.location or case.subject.location,
        cause=_cause(stop),
        evidence={"derivative": reach.derivative, "gradient": 0.0},
        notes=notes,
        help=_mend(stop),
        related=(("the operation is in the library here", library),) if library else (),
    )


def _what(stop: Stop | None) -> str:
    if stop is None:
        return "something outside torch"
    if stop.no_grad:
        return "`torch.no_grad()`"
    name = stop.operation.name
    shown = {
        "__float__": "float(...)",
        "__array__": "numpy",
        "data": ".data",
        "tensor": "torch.tensor",
    }
    return f"`{shown.get(name, name)}`"


def _cause(stop: Stop | None) -> str | None:
    return None if stop is None else ("no_grad" if stop.no_grad else stop.operation.name.strip("_"))


def _mend(stop: Stop | None) -> str:
    if stop is not None and stop.no_grad:
        return "compute this outside the `no_grad` block"
    default = "use torch operations from the input to the returned value"
    return default if stop is None else MENDS.get(stop.operation.name, default)


def _lost(term: LostTerm) -> Verdict:
    stop = term.stops[0]
    return RULE.finding(
        f"{_what(stop)} throws the gradient of an added term away",
        severity=Severity.WARNING,
        location=stop.operation.site.location,
        cause="lost-term",
        evidence={"derivative": term.derivative},
        notes=(
            "the stopped value is added to the loss whatever the inputs are: to the optimiser it "
            "is a constant",
            f"its derivative along a random direction of `{term.name}` is {term.derivative:.4g}",
        ),
        help=_mend(stop),
    )
