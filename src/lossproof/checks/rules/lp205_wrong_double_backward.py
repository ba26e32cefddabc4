"""The derivative of a hand-written gradient is silently wrong.

## What it does

Differentiates the `backward` of every `autograd.Function` in the loss once more, as
`create_graph=True` does, and compares the second derivative with the one that autograd derives
from `forward` and with finite differences of the first. It looks only where the first derivative
is right.

## Why it matters

Gradient penalties, Hessian-vector products, sharpness-aware and meta-learning losses differentiate
the gradient. A `backward` that uses a tensor which `forward` computed and saved treats it as a
constant there: the number that comes out is wrong, and no error is raised.

## Example

```python
class Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x * torch.exp(x)
        ctx.save_for_backward(x, y)  # `y` was computed here, so it has no graph
        return y.sum()

    @staticmethod
    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        return grad_output * (torch.exp(x) + y)
```

## Use instead

```python
class Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * torch.exp(x)).sum()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * (1 + x) * torch.exp(x)
```

Or say that there is no second derivative, so that asking for one is an error: put
`@torch.autograd.function.once_differentiable` below `@staticmethod`.

## Not reported

A backward whose second derivative raises an error (marked `once_differentiable`, or computed
without any graph): nothing is silent there. One whose first derivative is wrong already.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

import torch

from lossproof.checks.arbitration import EXACT, SMALL_ERROR
from lossproof.checks.causes import Diagnosis, examine_functions
from lossproof.checks.causes.source import source_of
from lossproof.checks.examination import Examination
from lossproof.checks.finite_differences import Point, direction, judge
from lossproof.checks.report import Location, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.second_order import along, derived
from lossproof.checks.witness import (
    CustomFunction,
    Scene,
    double_precision,
    filled,
    relative_error,
)

Tensor = torch.Tensor

RULE = RULES["LP205"]
LOUD = (
    "no second derivative: asking for one raises an error (LP203 looks at a `grad_output` that "
    "depends on a parameter)"
)


def examine(case: Examination) -> Iterable[Verdict]:
    """A finding for every Function whose second derivative is a wrong number."""
    diagnoses = [d for d in examine_functions(case) if d.verdict.status != "unused"]
    if not diagnoses:
        yield RULE.not_applicable("the loss has no hand-written backward")
    for diagnosis in diagnoses:
        status, name = diagnosis.verdict.status, diagnosis.name
        if status == "wrong":
            yield RULE.not_applicable(f"the first derivative of `{name}` is wrong already")
        elif diagnosis.verdict.scene is None or diagnosis.verdict.scene.derivation is None:
            yield RULE.unproved(f"`{name}`: no second derivative to compare with")
        elif status != "proved":
            yield RULE.unproved(f"`{name}`: {diagnosis.verdict.detail}")
        else:
            with double_precision(case):
                yield _judged(case, diagnosis, diagnosis.verdict.scene)


def _judged(case: Examination, diagnosis: Diagnosis, scene: Scene) -> Verdict:
    function, name = scene.function, diagnosis.name
    weights = [direction(t.detach(), case.seed, k, 205) for k, t in enumerate(scene.point)]
    try:
        claimed = _claimed(function, scene, weights)
    except RuntimeError:
        return RULE.not_applicable(f"`{name}` has {LOUD}")
    if claimed is None:
        return RULE.not_applicable(f"`{name}` has {LOUD}; `@once_differentiable` would say so")
    try:
        true = derived(scene, weights)
    except RuntimeError as error:
        return RULE.unproved(
            f"`{name}`: an operation of `forward` has no second derivative: {error}"
        )
    scale = max(float(t.abs().max()) for t in (*true, *claimed))
    errors = [relative_error(c, t, 1e-6 * scale) for c, t in zip(claimed, true, strict=True)]
    wrong = [k for k, error in enumerate(errors) if error > SMALL_ERROR]
    if not wrong:
        return RULE.proved(
            f"`{name}`: would have seen a relative error above {max(EXACT, *errors):.0e} "
            "in the second derivative along one direction"
        )
    return _accused(case, diagnosis, scene, weights, wrong, claimed, true, errors)


def _claimed(
    function: CustomFunction, scene: Scene, weights: Sequence[Tensor]
) -> tuple[Tensor, ...] | None:
    """The derivative of the hand-written gradient along ``weights``; ``None``: it has no graph."""
    claim, leaves = function.apply(scene.args, scene.upstream, create_graph=True)
    total = along(claim.gradients, weights)
    if total is None:
        return None
    return filled(torch.autograd.grad(total, leaves, allow_unused=True), scene.point)


def _accused(
    case: Examination,
    diagnosis: Diagnosis,
    scene: Scene,
    weights: Sequence[Tensor],
    wrong: Sequence[int],
    claimed: Sequence[Tensor],
    true: Sequence[Tensor],
    errors: Sequence[float],
) -> Verdict:
    """The second derivative differs from the re-derived one; finite differences decide."""
    function, name = scene.function, diagnosis.name

    def slope(point: Point) -> tuple[float, list[Tensor]]:
        gradients = function.gradient(function.at(point), scene.upstream)
        return sum(float((g * w).sum()) for g, w in zip(gradients, weights, strict=True)), []

    k = max(wrong, key=lambda k: errors[k])
    against = judge(slope, scene.point, k, claimed[k], seed=case.seed, directions=2)
    beside = judge(slope, scene.point, k, true[k], seed=case.seed, directions=2)
    if against[-1].verdict != "differs" or any(j.verdict != "agrees" for j in beside):
        return RULE.unproved(
            f"`{name}`: its second derivative differs from the re-derived one, and finite "
            "differences do not decide"
        )
    cause, location, note = _cause(diagnosis, function)
    worst = int((claimed[k] - true[k]).abs().argmax())
    return RULE.finding(
        f"the second derivative of `{name}` is wrong, without an error",
        severity=Severity.WARNING,
        location=location or diagnosis.definition(case),
        cause=cause,
        evidence={
            "relative error": errors[k],
            "second derivative": float(claimed[k].flatten()[worst]),
            "should be": float(true[k].flatten()[worst]),
        },
        notes=[*([note] if note else []), "re-derivation and finite differences agree against it"],
        help="save the inputs and compute from them in backward, or mark backward with "
        "`@once_differentiable` so that asking for a second derivative is an error",
    )


DETACHING = ("detach", "data", "item", "tolist", "numpy", "no_grad")


def _cause(
    diagnosis: Diagnosis, function: CustomFunction
) -> tuple[str | None, Location | None, str]:
    """Why the second derivative lacks a part: a word, the place, and a sentence."""
    source = diagnosis.source
    for node in ast.walk(source.tree) if source is not None else ():
        if isinstance(node, ast.Attribute) and node.attr in DETACHING:
            assert source is not None
            text = ast.unparse(node)
            return "detached", source.location(node), f"`{text}` makes a constant of its value"
    location, saved = _saved_values(function)
    if not saved:
        return None, None, ""
    names = ", ".join(f"`{value}`" for value in saved)
    note = f"{names} computed in forward and saved: constant when backward is differentiated"
    return "saved-intermediate", location, note


def _saved_values(function: CustomFunction) -> tuple[Location | None, list[str]]:
    """The values that forward computes itself and saves: where, and what they are called."""
    source = source_of(getattr(function.cls, "forward", None))
    if source is None:
        return None, []
    own = {argument.arg for argument in source.tree.args.args}
    returned = {ast.unparse(node.value) for node in source.returns if node.value is not None}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "save_for_backward":
                texts = [ast.unparse(argument) for argument in node.args]
                inner = [text for text in texts if text not in own and text not in returned]
                return source.location(node), inner
    return None, []
