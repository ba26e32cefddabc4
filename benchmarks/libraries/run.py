"""What the check says of the losses of well-known libraries, and how long it takes.

``python -m benchmarks libraries`` (``--help`` lists the options).
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer

import lossproof
from benchmarks.harness import results
from benchmarks.harness.journal import ON_STDERR, Journal, work_through
from benchmarks.libraries.catalogue import LIBRARIES
from benchmarks.libraries.defects import DEFECTS
from benchmarks.libraries.tables import figures, summary
from benchmarks.studies import write_pages_of

JOURNAL = results.RESULTS / ".libraries.jsonl"


@dataclass(frozen=True)
class Task:
    """The check of one loss."""

    library: str
    loss: str
    seed: int

    @property
    def key(self) -> str:
        """A name for the task."""
        return f"{self.library}/{self.loss}/{self.seed}"


def prepare() -> None:
    """Set up a worker process; the first check loads the rules, and is not timed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lossproof.check(torch.nn.MSELoss(), "float[4,2]", "float[4,2]")


def answer(task: Task) -> dict[str, Any]:
    """Run one check."""
    entry = LIBRARIES[task.library].entries()[task.loss]
    loss, given = entry.make(), entry.inputs(task.seed)
    start = time.perf_counter()
    findings: list[dict[str, Any]] = []
    failed: list[str] = []
    error = None
    try:
        report = lossproof.check(loss, *given, seed=task.seed)
        findings = [_plain(finding) for finding in report.findings]
        failed = [o.detail for o in report.unproved if "lossproof itself failed" in o.detail]
    except Exception as problem:  # a check that fails is counted, and the study goes on
        error = f"{type(problem).__name__}: {problem}"
    return {
        "task": task.key, "library": task.library, "loss": task.loss, "findings": findings,
        "error": error or "; ".join(failed) or None,
        "seconds": round(time.perf_counter() - start, 3),
    }  # fmt: skip


def _plain(finding: lossproof.Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "cause": finding.cause,
        "message": finding.message,
    }


def main(
    only: Annotated[str, typer.Option(help="One library; the results are not saved.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the inputs and of the check.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    fresh: Annotated[bool, typer.Option(help="Forget what an earlier run has done.")] = False,
) -> None:
    """Check every loss of every library that is installed; a run over all writes the results."""
    if only and only not in LIBRARIES:
        raise SystemExit(f"no library `{only}`; there are {', '.join(LIBRARIES)}")
    wanted = [name for name in LIBRARIES if only in {"", name}]
    missing = [name for name in wanted if not LIBRARIES[name].installed]
    libraries = [name for name in wanted if name not in missing]
    if not libraries:
        raise SystemExit(f"`{only}` is not installed: benchmarks/README.md says how to install it")
    if missing:
        ON_STDERR.print(f"not installed, so left out and nothing saved: {', '.join(missing)}")
    prepare()
    _make_sure_of_the_defects(libraries)
    digest = results.source_digest()
    tasks = [Task(lib, loss, seed) for lib in libraries for loss in LIBRARIES[lib].entries()]
    answers = work_through(
        tasks, answer, Journal(JOURNAL, digest, fresh=fresh),
        workers=workers, prepare=prepare, description="checking",
    )  # fmt: skip
    counted = figures(answers)
    print(summary(counted))
    if only or missing:
        return
    results.refuse_if_changed(digest)
    versions = {name: LIBRARIES[name].version for name in libraries}
    data = {
        "machine": results.machine(), "versions": versions, "seed": seed, "workers": workers,
        "figures": counted,
    }  # fmt: skip
    print(results.save("libraries", data))
    write_pages_of("libraries")


def _make_sure_of_the_defects(libraries: list[str]) -> None:
    for defect in DEFECTS:
        if defect.library in libraries and not defect.shows():
            raise SystemExit(f"not there, or not any more: {defect.title}: {defect.what}")
