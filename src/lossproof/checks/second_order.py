"""The second derivative of what a hand-written backward returns.

With a constant ``grad_output`` a gradient that forward computed has no graph: to differentiate it
raises. With a ``grad_output`` that depends on a parameter (``loss ** 2``, a learned weight) it has
one, through ``grad_output`` alone, and its own derivative is silently taken to be zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.arbitration import SMALL_ERROR
from lossproof.checks.causes import Diagnosis, examine_functions
from lossproof.checks.causes.diagnosis import probe_of
from lossproof.checks.examination import Evaluation, weights_like
from lossproof.checks.finite_differences import Point, direction, judge
from lossproof.checks.witness import Scene, double_precision, filled, relative_error

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor
Gradients = Sequence[Tensor | None]


@dataclass(frozen=True)
class Missing:
    """A gradient that is a constant when it is differentiated."""

    claimed: float
    """An element of the second derivative of ``loss ** 2 / 2`` plus a multiple of the loss."""
    true: float
    error: float
    """How much of the second derivative is not there, relatively."""
    diagnosis: Diagnosis | None = None
    """The Function whose backward it is, where it is one that can be run by itself."""


def along(gradients: Gradients, weights: Sequence[Tensor]) -> Tensor | None:
    """The product of gradients with weights, as far as it has a graph."""
    terms = [
        (gradient * weight).sum()
        for gradient, weight in zip(gradients, weights, strict=True)
        if gradient is not None and gradient.requires_grad
    ]
    return sum(terms[1:], terms[0]) if terms else None


def differentiated(total: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The derivative by a backward pass through the whole graph.

    To ask for the leaves alone would leave out the parts of the graph that lead to none of them:
    there stands what is to raise an error (``once_differentiable``).
    """
    before = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    try:
        torch.autograd.backward(total)
        return tuple(leaf.grad for leaf in leaves)
    finally:
        for leaf, gradient in zip(leaves, before, strict=True):
            leaf.grad = gradient


def derived(scene: Scene, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The derivative of the true gradient along ``weights``.

    Raises:
        RuntimeError: an operation of ``forward`` has no second derivative.
    """
    assert scene.derivation is not None
    gradients = scene.derivation.gradient(scene.upstream, create_graph=True)
    total = along(gradients, weights)
    if total is None:
        return tuple(torch.zeros_like(t) for t in scene.point)
    found = torch.autograd.grad(
        total, scene.derivation.leaves, allow_unused=True, retain_graph=True
    )
    return filled(found, scene.point)


def first_missing(case: Examination, nodes: Sequence[Any]) -> Missing | None:
    """The first gradient whose own derivative is silently zero.

    Args:
        case: the check.
        nodes: the nodes of its graph that are not torch's own.
    """
    diagnoses = examine_functions(case)
    for diagnosis in diagnoses:
        scene = diagnosis.verdict.scene
        if diagnosis.verdict.status != "proved" or scene is None or scene.derivation is None:
            continue
        with double_precision(case):
            found = _of_function(case, diagnosis, scene)
        if found is not None:
            return found
    functions = {f"{diagnosis.name}Backward" for diagnosis in diagnoses}
    if all(type(node).__name__ in functions for node in nodes):
        return None
    return _of_whole_loss(probe_of(case))


def _of_function(case: Examination, diagnosis: Diagnosis, scene: Scene) -> Missing | None:
    weights = [direction(t.detach(), case.seed, k, 203) for k, t in enumerate(scene.point)]
    upstream = {i: weight.clone().requires_grad_() for i, weight in scene.upstream.items()}
    try:
        claim, leaves = scene.function.apply(scene.args, upstream, create_graph=True)
        total = along(claim.gradients, weights)
        if total is None:
            return None
        second = differentiated(total, leaves)
        if any(one is not None and bool(one.any()) for one in second):
            return None  # it has a derivative: whether it is the right one is for LP205 to say
        true = derived(scene, weights)
    except RuntimeError:
        return None  # not silent
    scale = max(float(one.abs().max()) for one in scene.truth if one.numel())
    k = max(range(len(true)), key=lambda k: float(true[k].abs().max()) if true[k].numel() else 0.0)
    largest = float(true[k].abs().max()) if true[k].numel() else 0.0
    if largest <= SMALL_ERROR * scale:
        return None

    def slope(point: Point) -> tuple[float, list[Tensor]]:
        gradients = scene.function.gradient(scene.function.at(point), scene.upstream)
        return sum(float((g * w).sum()) for g, w in zip(gradients, weights, strict=True)), []

    if not _accused(slope, scene.point, k, torch.zeros_like(true[k]), true[k], case.seed):
        return None
    return Missing(0.0, largest, 1.0, diagnosis)


def _accused(slope: Any, point: Point, k: int, claimed: Tensor, true: Tensor, seed: int) -> bool:
    """Whether finite differences of the gradient are for one and against the other."""
    against = judge(slope, point, k, claimed, seed=seed, directions=2)
    beside = judge(slope, point, k, true, seed=seed, directions=2)
    return against[-1].verdict == "differs" and all(j.verdict == "agrees" for j in beside)


# ---------------------------------------------------------------------- the loss as a whole
@dataclass(frozen=True)
class _Claim:
    """The second derivative of ``offset * loss + loss ** 2 / 2``, as autograd gives it."""

    offset: float
    weights: tuple[Tensor, ...]
    point: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    through_upstream: tuple[Tensor, ...]
    """The part that comes through the gradient sent backward."""


def _of_whole_loss(case: Examination) -> Missing | None:
    claims: list[_Claim] = []

    def differentiate(found: Evaluation) -> None:
        try:
            claim = _claimed(case, found)
        except RuntimeError:
            return  # not silent
        if claim is not None:
            claims.append(claim)

    case.evaluate(dtype=torch.float64, then=differentiate)
    if not claims:
        return None
    claim = claims[0]
    constant = [
        k
        for k, (all_, part) in enumerate(zip(claim.second, claim.through_upstream, strict=True))
        if bool(part.any()) and relative_error(all_, part) < SMALL_ERROR
    ]
    for k in constant:
        said = judge(_slope(case, claim), claim.point, k, claim.second[k], seed=case.seed)
        if said[-1].verdict == "differs":
            true, claimed = said[-1].derivative, said[-1].expected
            return Missing(claimed, true, abs(true - claimed) / max(abs(true), abs(claimed)))
    return None


def _claimed(case: Examination, found: Evaluation) -> _Claim | None:
    value = found.value
    if value is None or not value.requires_grad:
        return None
    total = (value * weights_like(value.detach())).sum()
    # The gradient sent backward must not be near zero, else what it multiplies is not seen.
    offset = 1.0 + abs(float(total))
    squared = offset * total + total**2 / 2
    gradients = torch.autograd.grad(squared, found.leaves, create_graph=True, allow_unused=True)
    weights = tuple(direction(t.detach(), case.seed, k, 203) for k, t in enumerate(found.leaves))
    slope = along(gradients, weights)
    if slope is None:
        return None
    second = differentiated(slope, found.leaves)
    first = tuple(g / (offset + float(total)) for g in filled(gradients, found.leaves))
    size = sum(float((g * w).sum()) for g, w in zip(first, weights, strict=True))
    point = tuple(leaf.detach() for leaf in found.leaves)
    through = tuple(size * g for g in first)
    return _Claim(offset, weights, point, filled(second, found.leaves), through)


def _slope(case: Examination, claim: _Claim) -> Any:
    def slope(point: Point) -> tuple[float, list[Tensor]]:
        found = case.evaluate_at(point)
        gradients = [found.gradient(leaf) for leaf in range(len(found.leaves))]
        size = sum(float((g * w).sum()) for g, w in zip(gradients, claim.weights, strict=True))
        return (claim.offset + found.scalar) * size, []

    return slope
