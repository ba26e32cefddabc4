"""What the gradients of K terms cost: time and memory, beside the peers and the floor.

``python -m benchmarks.terms.engine`` (``--help`` lists the options). Every case has a process of
its own, in which all ways take turns; times are the processor's, of one thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness import results
from benchmarks.harness.journal import Journal, work_through

ROUNDS, QUICK_ROUNDS = 15, 3
COUNTS = (2, 4, 8, 16)
MODELS = ("mlp", "mlpwide", "cnn", "transformer", "pinn")
LIBRARIES = ("torchjd", "conflictfree", "LibMTL", "quadprog")
JOURNAL = results.RESULTS / ".terms_engine.jsonl"


@dataclass(frozen=True)
class Case:
    """One process: what is measured, of which model, for how many terms."""

    kind: str
    model: str
    count: int
    rounds: int
    way: str = ""

    @property
    def key(self) -> str:
        return " ".join(str(x) for x in (self.kind, self.model, self.count, self.way) if x)


def cases(rounds: int) -> Iterable[Case]:
    """All of the study."""
    from benchmarks.terms.backwards import BACKWARDS
    from benchmarks.terms.heads import TOO_SLOW

    for model in ("pinn", "mlp", "cnn", "transformer", "mlpwide"):
        yield from (Case("heads", model, count, rounds) for count in COUNTS)
    yield from (Case("every", model, 4, rounds) for model in MODELS)
    yield from (Case("segments", model, k, rounds) for model in ("pinn", "mlp") for k in COUNTS)
    yield Case("segments", "mlpwide", 4, rounds)
    yield from (Case("compiled", "pinn", count, rounds) for count in (2, 4, 8))
    for model in ("mlpwide", "cnn", "transformer"):
        for way in BACKWARDS:
            if TOO_SLOW.get(model, {}).get(way, 4) >= 4:
                yield Case("memory", model, 4, rounds, way)


def in_a_fresh_process(case: Case) -> dict[str, Any]:
    """Measure a case in a process that has done nothing else."""
    from benchmarks.terms import compiled, memory

    fields = json.dumps([case.kind, case.model, case.count, case.rounds, case.way])
    command = [sys.executable, "-m", "benchmarks.terms.engine", "--one", fields]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if case.kind == "memory":
        environment |= memory.ENVIRONMENT
    if case.kind == "compiled":
        environment |= compiled.ENVIRONMENT
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{case.key}:\n{done.stderr}")
    return {"task": case.key, "kind": case.kind, "model": case.model, "count": case.count,
            "way": case.way, **json.loads(done.stdout.splitlines()[-1])}  # fmt: skip


def measured(case: Case) -> dict[str, Any]:
    """Measure a case in this process."""
    import torch

    from benchmarks.terms import compiled, heads, memory, segments

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if case.kind == "heads":
        return heads.measured(case.model, case.count, case.rounds)
    if case.kind == "every":
        return heads.every_tenth(case.model, case.count, case.rounds)
    if case.kind == "segments":
        return segments.measured(case.model, case.count, case.rounds)
    if case.kind == "compiled":
        return compiled.measured(case.model, case.count, case.rounds)
    return memory.measured(case.model, case.count, case.way)


def state(rounds: int) -> str:
    """For what state of things the figures hold."""
    digest = hashlib.sha256(results.source_digest().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name != "tables.py" and not path.name.startswith("helmholtz"):
            digest.update(path.read_bytes())
    return f"{digest.hexdigest()[:12]}, {rounds} rounds"


def nothing() -> None:
    """A process that only starts others needs no preparation."""


def main(
    quick: Annotated[bool, typer.Option(help="Few rounds; nothing is saved.")] = False,
    only: Annotated[str, typer.Option(help="Cases whose name has this; nothing is saved.")] = "",
    workers: Annotated[int, typer.Option(help="Cases at the same time.")] = 1,
    journal: Annotated[Path, typer.Option(help="Where the answers are kept.")] = JOURNAL,
    fresh: Annotated[bool, typer.Option(help="Forget the answers so far.")] = False,
    one: Annotated[str, typer.Option(help="Measure this case here.", hidden=True)] = "",
) -> None:
    """Measure all cases, and write the results."""
    if one:
        print(json.dumps(measured(Case(*json.loads(one)))))
        return
    rounds = QUICK_ROUNDS if quick else ROUNDS
    chosen = [case for case in cases(rounds) if only in case.key]
    digest = results.source_digest()
    kept = Journal(journal, state(rounds), fresh=fresh)
    timings = [case for case in chosen if case.kind != "memory"]
    sizes = [case for case in chosen if case.kind == "memory"]
    answers = work_through(
        timings, in_a_fresh_process, kept,
        workers=workers, prepare=nothing, description="times",
    )  # fmt: skip
    answers += work_through(  # which processes do not disturb in each other
        sizes, in_a_fresh_process, kept,
        workers=max(2, workers), prepare=nothing, description="memory",
    )  # fmt: skip
    from benchmarks.terms.tables import engine_summary, write_page

    print(engine_summary(answers))
    if quick or only:
        return
    results.refuse_if_changed(digest)
    import torch

    torch.set_num_threads(1)
    versions = {name: metadata.version(name) for name in LIBRARIES}
    data = {"machine": results.machine(), "versions": versions, "cases": answers}
    print(results.save("terms_engine", data))
    write_page()


if __name__ == "__main__":
    typer.run(main)
