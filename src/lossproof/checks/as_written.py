"""An accelerated loss beside the loss as it was written.

Everything that it returns and every gradient must be what the plain computation gives: the
gradients of the inputs and of its own parameters, and their derivative in turn. A small example
would be computed at once, as the plain loss is, so that nothing is compared: it is cut into parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.agreement import (
    ZERO_GRADIENT,
    ZERO_VALUE,
    floating_dtype,
    tolerances,
    variations,
)
from lossproof.checks.backward_graph import BackwardGraph
from lossproof.checks.examination import Evaluation, Examination, weights_like
from lossproof.checks.factors import torchs_own
from lossproof.checks.finite_differences import direction
from lossproof.checks.second_order import Gradients, along, differentiated
from lossproof.checks.state import State
from lossproof.checks.subject import Subject, subject_of
from lossproof.checks.trace import tensors_in
from lossproof.write.accelerated import Accelerated

if TYPE_CHECKING:
    from lossproof.checks.inputs import Inputs

Tensor = torch.Tensor

SAID = "compared with the loss as it was written"
PARTS = 3
"""Into so many parts the inputs are cut; the last is smaller than the others where it can be."""
COMPILED_POINTS = 2
EQUAL = 1e-6
"""The largest relative difference of what is computed in another order."""


def plain_of(subject: Subject) -> Subject | None:
    """The loss as it was written, where the subject is an accelerated one."""
    if not isinstance(subject.call, Accelerated):
        return None
    return subject_of(subject.call.plain)


def as_written(case: Examination) -> Examination:
    """The same check of the loss as it was written; the check itself where nothing accelerates it.

    For what is a matter of what the user wrote, and not of how it is computed.
    """
    plain = plain_of(case.subject)
    return case if plain is None else Examination(plain, case.inputs, case.seed)


def stands_for_the_plain(case: Examination) -> bool:
    """Whether the reference is the loss as it was written, and none that the user gave."""
    call = case.subject.call
    if case.reference is None or not isinstance(call, Accelerated):
        return False
    return getattr(case.reference.origin, "__self__", None) is call


def cut(subject: Subject, inputs: Inputs) -> None:
    """Have an accelerated loss compute in parts, also what it would compute at once.

    The subject is a copy: the caller's own loss stays as it is.
    """
    if isinstance(subject.call, Accelerated):
        rows = max((t.shape[0] for t in tensors_in(inputs.values) if t.dim()), default=1)
        subject.call.cut(max(1, -(-rows // PARTS)))
        subject.state = State(subject.call, subject.sources)  # what it is put back to


@dataclass
class Computed:
    """What one way to compute the loss gives at one point."""

    outputs: tuple[Tensor, ...] = ()
    gradients: tuple[Tensor | None, ...] = ()
    again: tuple[Tensor | None, ...] = ()
    """The gradients of three times the loss, by a second backward pass through the same graph."""
    second: tuple[Tensor, ...] | None = None
    """The derivative of the gradient of ``loss ** 2`` along a direction."""
    eager: bool = False
    """Whether it should have been compiled, and was not."""
    error: Exception | None = None
    refused: Exception | None = None
    """Why there is no second derivative."""


@dataclass(frozen=True)
class Difference:
    """Where the two differ."""

    what: str
    """``shape``, ``value``, ``gradient``, ``gradient at a second pass``, ``second derivative``."""
    leaf: str | None
    relative: float
    own: float
    """The worst element."""
    plain: float
    differing: int
    elements: int
    reaches: bool = True
    """Whether there is a gradient at all."""
    times: float | None = None
    """The factor between the two, where it is one."""
    rows: tuple[int, ...] = ()
    """The rows that differ, where not all do."""


@dataclass
class Comparison:
    """What was compared, and the first difference."""

    difference: Difference | None = None
    undecided: str | None = None
    points: int = 0
    second: str = ""
    """What is to be said of the second derivative."""
    dtype: torch.dtype = torch.float64
    equal: float = EQUAL
    """The relative difference that counts as none."""
    leaves: tuple[str, ...] = field(default=())


def compared(case: Examination) -> Comparison:
    """Compare an accelerated loss with its plain one, at several points."""
    case = _affordable(case)
    assert case.reference is not None
    if case.trace.random:
        return Comparison(undecided="the loss draws random numbers, in parts in another order")
    names = case.leaf_names
    if len(names) != len(case.inputs.differentiable) + len(case.reference.state.parameters()):
        return Comparison(undecided="the plain loss has other parameters than the accelerated one")
    found = Comparison(leaves=names)
    points = variations(case)
    if _compiles(case.subject):  # for one type, and not for each size of step
        found.dtype = floating_dtype(case)
        found.equal = tolerances(found.dtype)[1]
        points = itertools.islice(points, COMPILED_POINTS)
    for number, values in enumerate(points):
        own, plain = (
            _computed(case, values, subject, found.dtype, first=number == 0)
            for subject in (case.subject, case.reference)
        )
        if plain.error is not None:
            found.undecided = f"the plain loss raised {_told(plain.error)}"
            continue
        if own.error is not None:
            found.undecided = f"the accelerated loss raised {_told(own.error)}"
            return found
        if own.eager:
            found.undecided = "the compiler refused it, so that it is computed as it was written"
            return found
        found.points += 1
        found.difference = _difference(names, own, plain, found.equal)
        if found.difference is not None:
            return found
        if number == 0:
            found.second = _on_second(own, plain)
    return found


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _affordable(case: Examination) -> Examination:
    """The same examination on few rows, where the plain loss would take too much of them all."""
    if case.small is case.inputs:
        return case
    subject = subject_of(case.subject.origin)
    cut(subject, case.small)
    return Examination(subject, case.small, case.seed, plain_of(subject))


def _computed(
    case: Examination,
    values: Sequence[Any],
    subject: Subject,
    dtype: torch.dtype,
    *,
    first: bool,
) -> Computed:
    computed = Computed()

    def differentiate(found: Evaluation) -> None:
        try:
            _differentiate(case, found, computed, first=first)
        except Exception as error:  # the user's code may have no gradient
            computed.error = error

    double = torch.float64 if dtype is torch.float64 else None
    compiled = _compiles(subject)
    found = case.evaluate(
        values, dtype=double, subject=subject, then=differentiate, compiled=compiled
    )
    computed.error = computed.error or found.error
    computed.eager = compiled and all(map(torchs_own, BackwardGraph(found).nodes))
    return computed


def _compiles(subject: Subject) -> bool:
    return isinstance(subject.call, Accelerated) and subject.call.compiles


def _differentiate(
    case: Examination, found: Evaluation, computed: Computed, *, first: bool
) -> None:
    outputs = [t for t in tensors_in(found.output) if t.is_floating_point()]
    computed.outputs = tuple(t.detach().clone() for t in outputs)
    parts = [(t * weights_like(t.detach())).sum() for t in outputs if t.requires_grad]
    computed.gradients = (None,) * len(found.leaves)
    if not parts or not found.leaves:
        return
    total = sum(parts[1:], parts[0])
    computed.gradients = _gradients(total, found.leaves)
    if first:
        computed.again = _gradients(3 * total, found.leaves)
        try:
            computed.second = _second(case, found, total)
        except RuntimeError as error:
            computed.refused = error


def _gradients(total: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    given: Gradients = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    return tuple(None if g is None else g.detach().clone() for g in given)


def _second(case: Examination, found: Evaluation, total: Tensor) -> tuple[Tensor, ...]:
    """The derivative of ``(1 + |loss| + loss / 2) * loss``'s gradient along a direction.

    What is sent backward depends on the loss and is not near zero.
    """
    offset = 1.0 + abs(float(total))
    squared = offset * total + total**2 / 2
    gradients = torch.autograd.grad(squared, found.leaves, create_graph=True, allow_unused=True)
    weights = [direction(leaf.detach(), case.seed, k, 103) for k, leaf in enumerate(found.leaves)]
    slope = along(gradients, weights)
    if slope is None:
        raise RuntimeError("the gradient has no graph")
    second = differentiated(slope, found.leaves)
    return tuple(
        torch.zeros_like(leaf) if one is None else one
        for one, leaf in zip(second, found.leaves, strict=True)
    )


def _on_second(own: Computed, plain: Computed) -> str:
    if plain.second is None:
        return ""
    if own.second is None:
        return "a second derivative is refused with an error"
    return "the second derivative, too"


# ---------------------------------------------------------------------- differences
def _difference(
    names: Sequence[str], own: Computed, plain: Computed, equal: float
) -> Difference | None:
    if [t.shape for t in own.outputs] != [t.shape for t in plain.outputs]:
        return Difference("shape", None, 1.0, len(own.outputs), len(plain.outputs), 0, 0)
    stages: list[tuple[str, Sequence[Tensor | None], Sequence[Tensor | None]]] = [
        ("value", own.outputs, plain.outputs),
        ("gradient", own.gradients, plain.gradients),
        ("gradient at a second pass", own.again, plain.again),
    ]
    if own.second is not None and plain.second is not None:
        stages.append(("second derivative", own.second, plain.second))
    for what, ours, theirs in stages:
        leaves = [None] * len(ours) if what == "value" else names
        for leaf, one, other in zip(leaves, ours, theirs, strict=False):
            found = _gap(what, leaf, one, other, equal)
            if found is not None:
                return found
    return None


def _gap(
    what: str, leaf: str | None, own: Tensor | None, plain: Tensor | None, equal: float
) -> Difference | None:
    zero = ZERO_VALUE if what == "value" else ZERO_GRADIENT
    like = own if own is not None else plain
    if like is None:
        return None
    one = torch.zeros_like(like) if own is None else own
    other = torch.zeros_like(like) if plain is None else plain
    same = (one == other) | (one.isnan() & other.isnan())
    gap = torch.where(same, torch.zeros_like(one), one - other).abs().nan_to_num(float("inf"))
    finite = other.abs().where(torch.isfinite(other), torch.zeros_like(other))
    size = float(finite.max()) if finite.numel() else 0.0
    wrong = gap > equal * size + zero
    if not bool(wrong.any()):
        return None
    worst = int(gap.flatten().argmax())
    return Difference(
        what,
        leaf,
        float(gap.max()) / max(size, float(one.abs().max()), 1e-300),
        float(one.flatten()[worst]),
        float(other.flatten()[worst]),
        int(wrong.sum()),
        wrong.numel(),
        own is not None,
        _factor(one, other),
        _rows(wrong),
    )


def _factor(one: Tensor, other: Tensor) -> float | None:
    """The one factor that turns the second into the first, if there is such a thing."""
    norm = float((other * other).sum())
    times = float((one * other).sum()) / norm if norm > 0 else 0.0
    close = bool(((one - times * other).abs() <= EQUAL * one.abs().max()).all())
    return times if times and close else None


def _rows(wrong: Tensor) -> tuple[int, ...]:
    if wrong.dim() == 0:
        return ()
    rows = wrong.reshape(wrong.shape[0], -1).any(dim=1)
    return () if bool(rows.all()) else tuple(rows.nonzero().flatten().tolist())
