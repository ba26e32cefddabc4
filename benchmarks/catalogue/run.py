"""The battery over our losses and over their copies in other libraries, and their values compared.

``python -m benchmarks catalogue`` (``--help`` lists the options).
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.catalogue import peers as rooms
from benchmarks.catalogue.battery import COMMON, failures
from benchmarks.catalogue.contract import CONTRACT
from benchmarks.catalogue.peer import Peer
from benchmarks.catalogue.properties import PROPERTIES
from benchmarks.catalogue.subject import Subject, of_catalogue
from benchmarks.catalogue.tables import AGREE, OURS, figures, summary
from benchmarks.harness import results
from benchmarks.harness.journal import ON_STDERR, Journal, work_through
from benchmarks.studies import write_pages_of
from lossproof.losses.catalogue import catalogue, named

JOURNAL = results.RESULTS / ".catalogue.jsonl"


def all_peers() -> list[Peer]:
    """The copies in other libraries, family by family."""
    found: list[Peer] = []
    for room in pkgutil.iter_modules(rooms.__path__):
        module: Any = importlib.import_module(f"{rooms.__name__}.{room.name}")
        found += getattr(module, "PEERS", ())
    return found


@dataclass(frozen=True)
class Task:
    """The battery on one loss of ours, or on a copy of it."""

    library: str
    loss: str
    number: int
    """Which of the example inputs, or which of all copies."""

    @property
    def key(self) -> str:
        """A name for the task."""
        return f"{self.library}/{self.loss}/{self.number}"


def prepare() -> None:
    """Set up a worker process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def answer(task: Task) -> dict[str, Any]:
    """Run the battery, and compare the values of a copy with ours."""
    if task.library == OURS:
        entry = named(task.loss)
        assert entry is not None
        subject = of_catalogue(entry)[task.number]
        return {
            "task": task.key, "library": OURS, "loss": task.loss, "name": subject.specification,
            "common": failures(subject, COMMON),
            "contract": failures(subject, {**CONTRACT, **PROPERTIES}),
        }  # fmt: skip
    peer = all_peers()[task.number]
    entry = named(peer.loss)
    assert entry is not None, peer.loss
    subject = Subject(peer.name, peer.theirs, peer.inputs, entry, ours=False)
    asked = {name: check for name, check in COMMON.items() if name not in peer.not_asked}
    common = {} if peer.only_compared else failures(subject, asked)
    return {
        "task": task.key, "library": peer.library, "loss": peer.loss, "name": peer.name,
        "common": common, "value": compared(peer),
    }  # fmt: skip


def compared(peer: Peer) -> dict[str, Any]:
    """How far the two values are from each other, in float64 where the copy takes it."""
    given = Subject(peer.name, peer.theirs, peer.inputs, catalogue()[0]).draw(seed=1)
    for dtype in (torch.float64, torch.float32):
        call = given.to(dtype)
        try:
            with torch.no_grad():
                theirs = peer.theirs(*call.tensors).double()
                ours = peer.ours(*call.tensors).double()
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
            continue
        if theirs.numel() != 1 or ours.numel() != 1:
            return {"error": f"no scalars: {list(theirs.shape)}, {list(ours.shape)}"}
        distance = float(abs(theirs - ours) / ours.abs().clamp(min=1e-3))
        return {
            "ours": float(ours), "theirs": float(theirs), "distance": distance,
            "dtype": str(dtype).removeprefix("torch."), "difference": peer.difference,
            "agree": distance <= AGREE,
        }  # fmt: skip
    return {"error": said, "difference": peer.difference}


def _tasks(only: str) -> tuple[list[Task], dict[str, str], list[str]]:
    """What is to be done, the versions of the libraries, and those that are missing."""
    ours = [
        Task(OURS, entry.name, number)
        for entry in catalogue()
        for number in range(len(entry.inputs))
    ]
    copies = [Task(peer.library, peer.loss, i) for i, peer in enumerate(all_peers())]
    tasks = [task for task in ours + copies if only in {"", task.library, task.loss}]
    versions, missing = results.installed({task.library for task in tasks} - {OURS})
    return [task for task in tasks if task.library not in missing], versions, missing


def main(
    only: Annotated[str, typer.Option(help="One library or loss; nothing is saved.")] = "",
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    fresh: Annotated[bool, typer.Option(help="Forget what an earlier run has done.")] = False,
) -> None:
    """Run the battery over everything; a run over all libraries writes the results."""
    tasks, versions, missing = _tasks(only)
    if not tasks:
        raise SystemExit(f"there is no library and no loss `{only}`, or it is not installed")
    if missing:
        ON_STDERR.print(f"not installed, so left out and nothing saved: {', '.join(missing)}")
    digest = results.source_digest()
    study = results.digest_of(sorted(Path(__file__).parent.rglob("*.py")))
    answers = work_through(
        tasks, answer, Journal(JOURNAL, f"{digest} {study}", fresh=fresh),
        workers=workers, prepare=prepare, description="trying",
    )  # fmt: skip
    counted = figures(answers)
    print(summary(counted))
    if only or missing:
        return
    results.refuse_if_changed(digest)
    data = {
        "machine": results.machine(), "versions": versions, "workers": workers,
        "figures": counted,
    }  # fmt: skip
    print(results.save("catalogue", data))
    print(results.save_records("catalogue", answers))
    write_pages_of("catalogue")
