"""Weights from a Gramian: their time, and whether the update conflicts at any scale of gradients.

The peer is TorchJD.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.study import TIMES, WHOLE, Case, Kind, Step, Study
from benchmarks.harness.study import Method as Way

OURS, PEER = "lossproof", "TorchJD"
COUNTS = (2, 8, 32, 128)
SCALES = tuple(10.0**k for k in range(-20, 21, 4))
DRAWS = 50


@dataclass(frozen=True)
class Method:
    """A method as we have it, and as TorchJD has it."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weighting: str = ""
    """TorchJD's class that takes the Gramian; without one its aggregator takes the gradients."""
    theirs: Callable[[int], dict[str, Any]] = lambda count: {}


METHODS = (
    Method("UPGrad", weighting="UPGradWeighting"),
    Method("DualProj", weighting="DualProjWeighting"),
    Method("MGDA", weighting="MGDAWeighting"),
    Method("PCGrad", weighting="PCGradWeighting"),
    Method("GradVac", weighting="GradVacWeighting"),
    Method("CAGrad", {"c": 0.5}, weighting="CAGradWeighting", theirs=lambda count: {"c": 0.5}),
    Method("IMTLG", weighting="IMTLGWeighting"),
    Method("NashMTL", theirs=lambda count: {"n_tasks": count}),
    Method("AlignedMTL", weighting="AlignedMTLWeighting"),
    Method("FairGrad", {"alpha": 1.0}, "FairGradWeighting", theirs=lambda count: {"alpha": 1.0}),
    Method("ConFIG"),
)


def gradients(count: int, seed: int) -> Tensor:
    """Gradients of K terms, float32: every other one against the rest, of norms a decade apart."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(4 * count, generator=generator)
    signs = torch.tensor([(-1.0) ** k for k in range(count)])
    sizes = 10.0 ** torch.rand(count, generator=generator)
    own = torch.randn(count, 4 * count, generator=generator)
    return sizes[:, None] * (signs[:, None] * common + own)


def our_update(method: Method, matrix: Tensor) -> Tensor:
    """The combined gradient, ours."""
    import lossproof.terms as terms

    figures = terms.TermGradients.from_matrix(matrix)
    balancer = getattr(terms, method.name)(names=figures.names, **method.options)
    with torch.no_grad():
        (update,) = balancer.gradients_of(figures, balancer.weights_of(figures)).values()
    return update


def their_update(method: Method, matrix: Tensor) -> Tensor:
    """The combined gradient, TorchJD's."""
    import torchjd.aggregation as peer

    return getattr(peer, method.name)(**method.theirs(len(matrix)))(matrix)


def make(case: Case, method: Way) -> Step:
    """A call that gives the weights, from the Gramian where the method takes one."""
    (wanted,) = [known for known in METHODS if known.name == case["method"]]
    matrix = gradients(case["count"], 0)
    prepare, update = (our_call, our_update) if method.name == OURS else (their_call, their_update)
    return Step({WHOLE: prepare(wanted, matrix)}, facts=lambda: _facts(case, wanted, update))


def our_call(method: Method, matrix: Tensor) -> Callable[[], Any]:
    """The weights, ours."""
    import lossproof.terms as terms

    figures = terms.TermGradients.from_matrix(matrix)
    balancer = getattr(terms, method.name)(names=figures.names, **method.options)

    def call() -> None:
        with torch.no_grad():
            balancer.weights_of(figures)

    return call


def their_call(method: Method, matrix: Tensor) -> Callable[[], Any]:
    """The weights, TorchJD's; or the update, where it offers no more."""
    import torchjd.aggregation as peer

    theirs = getattr(peer, method.weighting or method.name)(**method.theirs(len(matrix)))
    given = matrix @ matrix.T if method.weighting else matrix
    return lambda: theirs(given)


def _facts(
    case: Case, method: Method, update: Callable[[Method, Tensor], Tensor]
) -> dict[str, Any]:
    """The conflicts, beside the first of the counts: they are of draws of their own."""
    if case["count"] != COUNTS[0]:
        return {}
    return {"least_cosine": [conflict(lambda m: update(method, m), s, DRAWS) for s in SCALES]}


def conflict(update: Callable[[Tensor], Tensor], scale: float, draws: int) -> float | str:
    """The least cosine between the update and a gradient, over draws; or what is said instead."""
    worst = math.inf
    for seed in range(draws):
        matrix = gradients(2 + seed % 4, 1000 + seed) * scale
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            found = update(matrix).double()
        except Exception as error:  # whatever a library raises is its answer
            return type(error).__name__
        if not bool(torch.isfinite(found).all()):
            return "not finite"
        size = float(found.abs().max())
        if size == 0.0:
            return "zero"
        rows = torch.nn.functional.normalize(matrix.double() / scale)
        worst = min(worst, float((rows @ (found / (found / size).norm() / size)).min()))
    return round(worst, 4)


STUDY = Study(
    name="terms_weights",
    title="Weights from a Gramian",
    asks="how long do weights from a Gramian take, and does the update conflict at any scale?",
    takes="10 min",
    cases=tuple(
        Case(f"{m.name}, K = {k}", {"method": m.name, "count": k}, measures=(TIMES,))
        for m in METHODS
        for k in COUNTS
    ),
    methods=(
        Way(OURS, Kind.ours),
        Way(PEER, needs=("torchjd", "quadprog", "cvxpy", "ecos")),
    ),
    make=make,
    baseline=OURS,
    seconds=30.0,
)
