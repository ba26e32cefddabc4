"""Weights from a Gramian: their time, and whether the update conflicts at any scale of gradients.

``python -m benchmarks.terms.weights`` (``--help`` lists the options); the peer is TorchJD. Times
are the processor's, of one thread; the two take turns.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.harness import results
from benchmarks.harness.journal import progress
from benchmarks.terms.timing import in_turns, summed, timed

ROUNDS, QUICK_ROUNDS = 15, 3
COUNTS = (2, 8, 32, 128)
SCALES = tuple(10.0**k for k in range(-20, 21, 4))
DRAWS, QUICK_DRAWS = 50, 5
PATIENCE = 5.0
"""Seconds: a slower call is made once."""


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


def speed(method: Method, count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a call, ours and TorchJD's, from the Gramian where it takes one."""
    import torchjd.aggregation as peer

    import lossproof.terms as terms

    matrix = gradients(count, 0)
    figures = terms.TermGradients.from_matrix(matrix)
    balancer = getattr(terms, method.name)(names=figures.names, **method.options)
    given = matrix @ matrix.T if method.weighting else matrix
    theirs = getattr(peer, method.weighting or method.name)(**method.theirs(count))

    def our_call() -> float:
        with torch.no_grad():
            return timed(lambda: balancer.weights_of(figures))

    calls = {"lossproof": our_call, "TorchJD": lambda: timed(lambda: theirs(given))}
    failed, times = {}, {}
    for name, call in list(calls.items()):
        try:
            times[name] = call()
        except Exception as error:  # whatever a library raises is its answer
            if name == "lossproof":
                raise
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            del calls[name]
    slow = {name: calls.pop(name) for name in list(calls) if times[name] > PATIENCE}
    return {
        "calls": summed(in_turns(calls, rounds), "lossproof")
        | {name: {"rounds": 1, "median_ms": round(1000 * times[name], 3)} for name in slow},
        "failed": failed,
    }


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


def main(
    quick: Annotated[bool, typer.Option(help="Few rounds; nothing is saved.")] = False,
    only: Annotated[str, typer.Option(help="Methods, with commas; nothing is saved.")] = "",
) -> None:
    """Measure all methods, and write the results."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [method for method in METHODS if not only or method.name in only.split(",")]
    digest = results.source_digest()
    rounds, draws = (QUICK_ROUNDS, QUICK_DRAWS) if quick else (ROUNDS, DRAWS)
    answers = []
    with progress() as bar:
        shown = bar.add_task("weights", total=len(chosen) * (len(COUNTS) + 1))
        for method in chosen:
            times = {}
            for count in COUNTS:
                times[str(count)] = speed(method, count, rounds)
                bar.advance(shown)
            least = {
                "lossproof": [conflict(_of(our_update, method), s, draws) for s in SCALES],
                "TorchJD": [conflict(_of(their_update, method), s, draws) for s in SCALES],
            }
            bar.advance(shown)
            answers.append({"method": method.name, "times": times, "least_cosine": least})
    from benchmarks.terms.tables import weights_blocks, write_page

    data = {"scales": SCALES, "draws": draws, "methods": answers}
    print("\n\n".join(weights_blocks(data)))
    if quick or only:
        return
    results.refuse_if_changed(digest)
    versions = {name: metadata.version(name) for name in ("torchjd", "quadprog", "cvxpy", "ecos")}
    print(
        results.save("terms_weights", {"machine": results.machine(), "versions": versions} | data)
    )
    write_page()


def _of(update: Callable[[Method, Tensor], Tensor], method: Method) -> Callable[[Tensor], Tensor]:
    return lambda matrix: update(method, matrix)


if __name__ == "__main__":
    typer.run(main)
