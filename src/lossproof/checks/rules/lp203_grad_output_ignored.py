"""A factor in front of the loss does not reach its gradient as the chain rule says.

## What it does

Calls the `backward` of every `autograd.Function` in the loss with several values of `grad_output`.
The gradient must be proportional to it: three times the `grad_output` gives three times the
gradient, and the gradients of a sum add up.

It also asks the loss as a whole, whatever it is made of, whether `k` times the loss has `k` times
every gradient: by `torch.autograd.grad` and in `.grad` after `backward()`, for a large `k` and a
small one, at the first backward pass through a graph and at the second. And it asks what happens
where `k` depends on a parameter, as in `loss ** 2` or under a learned weight: a gradient that was
computed in the forward pass is a constant there, so that its own derivative is silently zero.

A graph in which every node is a derivative of torch's own can go wrong in none of these ways, and
is not asked but for `k = 3`.

## Why it matters

The chain rule multiplies what comes from above. A backward that leaves `grad_output` out is right
as long as the loss is the last thing computed, and wrong as soon as it is multiplied by a weight,
added to another loss with a factor, divided for gradient accumulation, or scaled for mixed
precision: the factor changes nothing, and nothing says so.

## Example

```python
class MSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return 2 * (input - target) / input.numel(), None
```

## Use instead

```python
class MSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return grad_output * 2 * (input - target) / input.numel(), None
```

A gradient that is made in the forward pass is saved, returned by `backward` times `grad_output`,
and never written to `.grad`; `@torch.autograd.function.once_differentiable` on that `backward`
turns the silent zero into an error. `lossproof.chunk(loss, head)` keeps all of it right.

## Not reported

A Function whose `forward` returns its input unchanged or clamped (gradient reversal, scaling,
clipping): its backward is meant to treat `grad_output` in its own way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from lossproof.checks.causes import Diagnosis, Fault, Kind, examine_functions
from lossproof.checks.causes.source import FunctionSource
from lossproof.checks.examination import Examination
from lossproof.checks.report import Finding
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.rules._gradients import as_factor, in_function, related_places
from lossproof.checks.rules._whole_factor import judge_factor

RULE = RULES["LP203"]


def examine(case: Examination) -> Iterable[Verdict]:
    """Findings for every Function that misuses `grad_output`, else a proof for the whole loss."""
    found = [
        _finding(case, diagnosis, fault)
        for diagnosis in examine_functions(case)
        for fault in diagnosis.faults
        if fault.rule == RULE.code
    ]
    if found:
        yield from found
        return
    whole = list(judge_factor(case, RULE))
    undecided = [d for d in examine_functions(case) if d.linear is None]
    if any(d.verdict.status == "raises" for d in undecided) and not _finds(whole):
        yield RULE.unproved(f"`{undecided[0].name}` cannot be run by itself")
        return
    yield from whole


def _finds(verdicts: Iterable[Verdict]) -> bool:
    return any(isinstance(verdict, Finding) for verdict in verdicts)


def _finding(case: Examination, diagnosis: Diagnosis, fault: Fault) -> Finding:
    assert fault.cause is not None
    source = diagnosis.source
    positions = [diagnosis.verdict.function.wanted[k] for k in fault.arguments]
    location = diagnosis.definition(case)
    if source is not None:
        location = source.return_location(positions)
    if fault.repair is not None:
        location = fault.repair.location
    notes = [_seen(fault.cause.kind)]
    if fault.cause.kind is Kind.GRAD_OUTPUT_IGNORED:
        notes.append("a factor in front of the loss changes nothing")
    return RULE.finding(
        in_function(fault.cause.message, diagnosis.name),
        location=location,
        cause=fault.cause.kind.value,
        evidence=dict(fault.cause.evidence),
        notes=notes,
        help=fault.repair.help if fault.repair is not None else _mend(diagnosis, positions),
        related=related_places(diagnosis, fault),
    )


def _seen(kind: Kind) -> str:
    return {
        Kind.GRAD_OUTPUT_IGNORED: "3 times the `grad_output` gives the same gradient",
        Kind.GRAD_OUTPUT_TWICE: "3 times the `grad_output` gives 9 times the gradient",
        Kind.GRAD_OUTPUT_INVERTED: "3 times the `grad_output` gives a third of the gradient",
        Kind.GRAD_OUTPUT_PARTLY: "a `grad_output` of zero gives a gradient that is not zero",
        Kind.GRAD_OUTPUT_NONLINEAR: "3 times the `grad_output` does not give 3 times the gradient",
        Kind.GRAD_OUTPUT_REDUCED: (
            "a `grad_output` with other elements but the same mean gives the same gradient"
        ),
    }[kind]


def _mend(diagnosis: Diagnosis, positions: list[int]) -> str:
    """The corrected ``return``, where it is a tuple and `grad_output` is one number."""
    source, scene = diagnosis.source, diagnosis.verdict.scene
    if source is None or len(source.tree.args.args) < 2:
        return "multiply each gradient that backward returns by `grad_output`"
    name = source.tree.args.args[1].arg
    single = scene is not None and all(w.numel() == 1 for w in scene.upstream.values())
    value = _returned(diagnosis, source)
    if single and isinstance(value, ast.Tuple):
        texts = [
            f"{name} * {as_factor(item)}" if i in positions else ast.unparse(item)
            for i, item in enumerate(value.elts)
        ]
        return f"`return {', '.join(texts)}`"
    return f"multiply each gradient that backward returns by `{name}`"


def _returned(diagnosis: Diagnosis, source: FunctionSource) -> ast.expr | None:
    """What backward returns, with the mend of another fault in it if that is in the same line."""
    for fault in diagnosis.faults:
        if fault.repair is not None and fault.repair.statement.startswith("return "):
            statement = ast.parse(f"def backward():\n    {fault.repair.statement}").body[0]
            assert isinstance(statement, ast.FunctionDef)
            assert isinstance(statement.body[0], ast.Return)
            return statement.body[0].value
    return source.returns[-1].value if source.returns else None
