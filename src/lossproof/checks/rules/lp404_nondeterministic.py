"""The same inputs give another value each time.

## What it does
Calls the loss on the same inputs with two different seeds of the random number generators, and
twice with the same seed. It reports a value that depends on the generators (with the operation that
draws) and one that differs although nothing random was drawn (time, memory that was never written,
the order of a set, threads).

## Why it matters
A loss that draws random numbers has noise of its own: the validation loss jumps although the model
did not change, an exact resume is impossible, and a gradient can only be compared with itself after
seeding.

## Example
```python
def sampled_softmax(query, document):
    negatives = torch.randint(0, len(document), (len(query), 4))
```

## Use instead
```python
def sampled_softmax(query, document, generator=None):
    negatives = torch.randint(0, len(document), (len(query), 4), generator=generator)
```
or draw the negatives where the batch is made and pass them in.

## Not reported
A loss that takes or owns a `torch.Generator`; a module whose value is the same each time in
`eval()` mode (dropout); a loss that is called random or stochastic; numbers that are drawn
by a library which the loss calls, where that is how the library works. Numbers that a training step
draws by its definition: the points of a gradient penalty, the noise and the steps of a diffusion
model whose network the loss holds or is given, a sample `mean + std * noise` or from a
distribution, random projections.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lossproof.checks.definitions import definitions
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.subject import subject_of
from lossproof.checks.trace import tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination
    from lossproof.checks.trace import Operation

RULE = RULES["LP404"]
DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"})
NORMAL = frozenset({"randn", "randn_like", "normal", "normal_"})
PRODUCTS = frozenset(
    "mul __mul__ __rmul__ multiply matmul __matmul__ __rmatmul__ mm bmm einsum linear".split()
)
PASSED_ON = frozenset("normalize div __truediv__ to t T transpose view reshape type_as".split())
RANDOM_BY_NAME = re.compile(r"random|stochastic|noise_?contrast|dropout|perturb|monte_?carlo", re.I)


def examine(case: Examination) -> Iterable[Verdict]:
    """Compare values under equal and under different seeds."""
    first, again = case.base, case.evaluate(backward=False)
    if _differ(first, again):
        yield RULE.finding(
            "two calls on the same inputs with the same seed give different values",
            location=case.subject.location,
            cause="unseeded",
            evidence=_numbers(first, again),
            notes=("the generators of torch, numpy and Python were seeded alike before both",),
            help="look for time, `torch.empty`, the order of a set, or threads",
        )
        return
    other = case.evaluate(backward=False, seed=case.seed + 1)
    if not _differ(first, other):
        yield RULE.proved("equal values under two seeds")
    elif _owns_generator(case):
        yield RULE.not_applicable("random on purpose: it takes a generator")
    elif _deterministic_in_eval(case):
        yield RULE.not_applicable("random in training mode only")
    elif RANDOM_BY_NAME.search(case.subject.name):
        yield RULE.not_applicable("random on purpose: its name says so")
    elif _draws_by_definition(case):
        yield RULE.not_applicable("random on purpose: what it estimates is an average over draws")
    elif _library_draws(case):
        yield RULE.not_applicable("the numbers are drawn inside a library that the loss calls")
    else:
        yield _finding(case, first, other)


def _draws_by_definition(case: Examination) -> bool:
    """Whether the loss is one of a training step that samples, or an estimate by sampling."""
    trace = case.trace
    if not trace.random:
        return False
    if _differentiates(case) or _has_network(case):
        return not any(draw.name in DROPOUTS for draw in trace.random)
    return all(_is_sample(case, draw) for draw in trace.random)


def _differentiates(case: Examination) -> bool:
    """Whether the loss takes a gradient itself, at points that it draws."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "grad" and _is_autograd(node.value)
        for source in definitions(case.subject)
        for node in ast.walk(source.tree)
    )


def _is_autograd(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "autograd") or (
        isinstance(node, ast.Name) and node.id == "autograd"
    )


def _has_network(case: Examination) -> bool:
    """Whether the loss holds a network, or is given one: then it is a step of its training."""
    module = case.subject.call
    held = isinstance(module, nn.Module) and any(
        len(list(child.parameters())) for child in module.children()
    )
    return held or any(isinstance(value, nn.Module) for value in case.inputs.values)


def _is_sample(case: Examination, draw: Operation) -> bool:
    """Whether the drawn numbers are a distribution's, scaled by what is learnt, or directions."""
    text = draw.site.text or ""
    if draw.name == "gumbel_softmax" or re.search(r"\.r?sample\(", text):
        return True
    if draw.name not in NORMAL:
        return False
    drawn = {id(tensor) for tensor in tensors_in(draw.out)}
    for operation in case.trace.operations:
        operands = list(tensors_in([operation.args, operation.kwargs]))
        if drawn.isdisjoint(map(id, operands)):
            continue
        if operation.name in PRODUCTS and any(
            id(operand) not in drawn and operand.requires_grad for operand in operands
        ):
            return True
        if operation.name in PASSED_ON:
            drawn |= {id(tensor) for tensor in tensors_in(operation.out)}
    return False


def _library_draws(case: Examination) -> bool:
    """Whether no line of the user's own draws numbers, but a library (not torch) does."""
    drawn = case.trace.random
    return bool(drawn) and all(draw.site.library_location is not None for draw in drawn)


def _differ(one: Evaluation, other: Evaluation) -> bool:
    if one.value is None or other.value is None:
        return other.error is not None
    if one.value.shape != other.value.shape:
        return True
    # Sums over threads may differ in the last bits; that is no nondeterminism worth a word.
    return not torch.allclose(
        one.value.detach().double(), other.value.detach().double(), rtol=1e-6, atol=1e-12,
        equal_nan=True,
    )  # fmt: skip


def _numbers(one: Evaluation, other: Evaluation) -> dict[str, float | int | str | bool | None]:
    if one.value is None or other.value is None:
        return {}
    return {
        "first": float(one.value.detach().sum()),
        "second": float(other.value.detach().sum()),
    }


def _owns_generator(case: Examination) -> bool:
    if "generator" in case.subject.parameter_names:
        return True
    attributes = getattr(case.subject.call, "__dict__", {})
    signature = case.subject.signature
    named = signature is not None and "generator" in signature.parameters
    return named or any(isinstance(value, torch.Generator) for value in attributes.values())


def _deterministic_in_eval(case: Examination) -> bool:
    module = case.subject.call
    if not isinstance(module, nn.Module) or not module.training:
        return False
    copy: Any = subject_of(module).call
    quiet = subject_of(copy.eval())
    one = case.evaluate(backward=False, subject=quiet)
    other = case.evaluate(backward=False, subject=quiet, seed=case.seed + 1)
    return not _differ(one, other)


def _finding(case: Examination, first: Evaluation, other: Evaluation) -> Verdict:
    drawn = case.trace.random[0] if case.trace.random else None
    numbers = _numbers(first, other)
    return RULE.finding(
        f"the value changes from call to call: {_what(case)} draws from the global random "
        "number generator",
        severity=Severity.WARNING,
        location=(drawn.site.location if drawn else None) or case.subject.location,
        cause="random",
        evidence=numbers,
        notes=tuple(
            f"{numbers['first']:.6g} under one seed, {numbers['second']:.6g} under another"
            for _ in (1,)
            if numbers
        ),
        help="take a `generator` argument, or draw outside and pass the numbers in",
    )


def _what(case: Examination) -> str:
    if case.trace.random:
        return f"`{case.trace.random[0].name}`"
    return "numpy or Python" if inspect.isroutine(case.subject.call) else "the loss"
