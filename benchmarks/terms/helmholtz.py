"""The error that balancers reach on the Helmholtz problem, beside Table 3 of its paper.

``python -m benchmarks terms_helmholtz`` (``--help`` lists the options). Each run, a method and a
seed, takes a process one to four minutes; it is kept as soon as it is done, and the same command
goes on from there. The methods of one seed start from the same network and see the same points.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.harness import results
from benchmarks.harness.journal import Journal, work_through
from benchmarks.terms import helmholtz_problem as problem

ITERATIONS = 40_000
RECORDED = 2_000
"""The error is measured once in so many iterations."""
JOURNAL = results.RESULTS / ".terms_helmholtz.jsonl"
SETTINGS = (
    f"{problem.DEPTH} x {problem.WIDTH}, {problem.POINTS} points, {ITERATIONS} iterations, "
    f"rate {problem.RATE} x {problem.DECAY} each {problem.DECAY_STEPS}"
)


@dataclass(frozen=True)
class Run:
    """One training."""

    method: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.method}, seed {self.seed}"


def trained(run: Run) -> dict[str, Any]:
    """Train, and tell the error on the way and at the end."""
    from benchmarks.terms.helmholtz_methods import METHODS

    generator = torch.Generator().manual_seed(run.seed)
    torch.manual_seed(run.seed)
    network = problem.Network(generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=problem.RATE, fused=True)
    step = METHODS[run.method](network)
    errors, weights = [], []
    begin = time.process_time()
    for iteration in range(ITERATIONS):
        for group in optimizer.param_groups:
            group["lr"] = problem.rate(iteration)
        optimizer.zero_grad()
        weight = step(problem.residuals(network, generator))
        optimizer.step()
        if (iteration + 1) % RECORDED == 0:
            errors.append(_rounded(problem.error(network)))
            weights.append({name: _rounded(number) for name, number in weight.items()})
    return {
        "task": run.key,
        "method": run.method,
        "seed": run.seed,
        "error": errors[-1],
        "errors": errors,
        "weights": weights,
        "cpu_seconds": round(time.process_time() - begin, 1),
        "source": results.source_digest(),
    }


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def in_a_process() -> None:
    """One thread a process."""
    torch.set_num_threads(1)


def main(
    methods: Annotated[str, typer.Option(help="Some methods, by name, with commas.")] = "",
    seeds: Annotated[str, typer.Option(help="The seeds: 5 is the first five, 3-5 a range.")] = "5",
    workers: Annotated[int, typer.Option(help="Runs at the same time.")] = 2,
    journal: Annotated[Path, typer.Option(help="Where the runs are kept.")] = JOURNAL,
    write: Annotated[bool, typer.Option(help="Write the results from the runs so far.")] = True,
    fresh: Annotated[bool, typer.Option(help="Forget the runs so far.")] = False,
) -> None:
    """Train, and write the results from all runs that there are."""
    from benchmarks.terms.helmholtz_methods import METHODS

    chosen = methods.split(",") if methods else list(METHODS)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise typer.BadParameter(f"no method is called {unknown}; there are {list(METHODS)}")
    first, _, last = seeds.rpartition("-")
    wanted = range(int(first), int(last) + 1) if first else range(int(last))
    kept = Journal(journal, SETTINGS, fresh=fresh)
    work_through(
        [Run(method, seed) for seed in wanted for method in chosen],
        trained,
        kept,
        workers=workers,
        prepare=in_a_process,
        description="trainings",
    )
    if write:
        from benchmarks.studies import write_pages_of
        from benchmarks.terms.tables import helmholtz_figures

        runs = sorted(kept.answers.values(), key=lambda run: (run["method"], run["seed"]))
        figures = helmholtz_figures(runs)
        torch.set_num_threads(1)
        data = {"machine": results.machine(), "settings": SETTINGS, "figures": figures}
        print(results.save("terms_helmholtz", data | {"runs": runs}))
        print(json.dumps(figures, indent=1))
        write_pages_of("terms_helmholtz")
