"""A run of a study: every case, one after another, each answer kept as soon as it is there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import memory, results
from benchmarks.harness.figures import of_case, said_of
from benchmarks.harness.journal import ON_STDERR, Journal, progress
from benchmarks.harness.process import Failure, Worker
from benchmarks.harness.study import MEMORY, TIMES, Address, Case, Kind, Method, Study
from benchmarks.harness.turns import in_turns

SHARE = 0.9
"""Of the memory that is free, as much may be used."""


@dataclass(frozen=True)
class Task:
    """The times of a case, or the memory of a method for it."""

    study: Study
    case: Case
    methods: tuple[Method, ...]
    measure: str

    @property
    def key(self) -> str:
        """A name that is the same in every run."""
        name = self.methods[0].name if self.measure == MEMORY else "all"
        return f"{self.measure} | {self.case.name} | {name}"


class Run:
    """A study with what is there: the methods whose distributions are installed.

    Args:
        study: what is measured.
        only: a part of the names of the cases that are wanted.
        rounds: how often each method takes its turn; by default as the study says.
        limit: bytes that all processes may take together; by default 90 % of what is free.
    """

    def __init__(
        self, study: Study, *, only: str = "", rounds: int = 0, limit: int | None = None
    ) -> None:
        self.study = study
        self.cases = [case for case in study.cases if only in case.name]
        self.rounds = rounds or study.rounds
        self.limit = int(SHARE * memory.available()) if limit is None else limit
        self.versions, self.absent = results.installed(
            name for method in study.methods for name in method.needs
        )
        self.state = f"{results.source_digest()} {digest(study)} {self.rounds} {self.absent}"

    @property
    def complete(self) -> bool:
        """Whether every case is measured, by every method, as often as the study says."""
        return (
            len(self.cases) == len(self.study.cases)
            and self.rounds == self.study.rounds
            and not self.absent
        )

    def tasks(self) -> Iterator[Task]:
        """All that is to be measured."""
        for case in self.cases:
            present = tuple(m for m in self.study.of(case) if not set(m.needs) & set(self.absent))
            if TIMES in case.measures and present:
                yield Task(self.study, case, present, TIMES)
            if MEMORY in case.measures:
                yield from (
                    Task(self.study, case, (method,), MEMORY)
                    for method in present
                    if method.kind != Kind.floor
                )

    def done(self, journal: Journal) -> dict[str, Any]:
        """Measure what the journal does not hold, and return all figures; Ctrl-C keeps them."""
        tasks = list(self.tasks())
        waiting = [task for task in tasks if task.key not in journal.answers]
        with progress() as bar:
            shown = bar.add_task("", total=len(tasks), completed=len(tasks) - len(waiting))
            try:
                for task in waiting:

                    def seen(words: str, task: Task = task) -> None:
                        bar.update(shown, description=f"{task.case.name}: {words}")

                    journal.add({"task": task.key, **self.measured(task, seen)})
                    bar.advance(shown)
            except KeyboardInterrupt:
                ON_STDERR.print("stopped; the same command goes on from here")
                raise SystemExit(130) from None
        return self.data({task.key: journal.answers[task.key] for task in tasks})

    def measured(self, task: Task, seen: Callable[[str], None]) -> dict[str, Any]:
        """One answer."""
        if task.measure == TIMES:
            return self._times(task, seen)
        (method,) = task.methods
        seen(f"{method.name}: memory")
        return {"methods": {method.name: self._memory(task.case, method)}}

    def _times(self, task: Task, seen: Callable[[str], None]) -> dict[str, Any]:
        case = task.case
        not_run = {m.name: why for m in task.methods if (why := self._too_large(case, m))}
        fitting = [method for method in task.methods if method.name not in not_run]
        together = sum(self.study.estimate(case, method) or 0 for method in fitting)
        taken = in_turns(
            {method.name: self._start(case, method) for method in fitting},
            rounds=self.rounds, seconds=self.study.seconds, keep=together <= self.limit, seen=seen,
        )  # fmt: skip
        return {
            "kept": together <= self.limit,
            "methods": of_case(
                taken, self.study.baseline_of(case), {m.name: m.kind for m in fitting}
            )
            | {name: {"not_run": why} for name, why in not_run.items()},
        }

    def _memory(self, case: Case, method: Method) -> dict[str, Any]:
        if why := self._too_large(case, method):
            return {"not_run": why}
        try:
            worker = self._start(case, method, memory.FREED_AT_ONCE)()
        except Failure as failure:
            return said_of(failure.words, failure.left_out)
        try:
            return worker.memory()
        except Failure as failure:
            return said_of(failure.words, failure.left_out)
        finally:
            worker.end()

    def _start(
        self, case: Case, method: Method, more: dict[str, str] | None = None
    ) -> Callable[[], Worker]:
        study = self.study
        address = Address(study.module, study.name, case.name, method.name)
        environment = {**study.environment, **method.environment, **(more or {})}
        return lambda: Worker(address, environment, study.patience)

    def _too_large(self, case: Case, method: Method) -> str | None:
        wanted = self.study.estimate(case, method)
        if wanted is None or wanted <= self.limit:
            return None
        return f"needs about {wanted / 2**30:.2g} GB, and may take {self.limit / 2**30:.2g} GB"

    def data(self, answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """All figures, as they are saved."""
        import torch

        torch.set_num_threads(1)  # as in the processes that were measured
        cases: dict[str, dict[str, Any]] = {}
        for task in self.tasks():
            entry = cases.setdefault(task.case.name, self._described(task.case))
            answer = answers[task.key]
            entry.update({key: answer[key] for key in ("kept",) if key in answer})
            entry["methods"] |= {
                method.name: entry["methods"].get(method.name, {}) | answer["methods"][method.name]
                for method in task.methods
            }
        return {
            "machine": results.machine(),
            "versions": self.versions,
            "absent": self.absent,
            "study": self.study.name,
            "rounds": self.rounds,
            "baseline": self.study.baseline,
            "kinds": {method.name: method.kind.value for method in self.study.methods},
            "cases": list(cases.values()),
        }

    def _described(self, case: Case) -> dict[str, Any]:
        """What is saved of a case besides its figures."""
        return {
            "case": case.name,
            "settings": dict(case.settings),
            "baseline": " or ".join(self.study.baseline_of(case)),
            "methods": {},
        }


def failures(data: dict[str, Any]) -> list[str]:
    """What of ours, or of what it is compared with, has failed: such figures are not saved."""
    return [
        f"{case['case']}: {name}: {figures['failed']}"
        for case in data["cases"]
        for name, figures in case["methods"].items()
        if "failed" in figures and data["kinds"][name] != Kind.peer.value
    ]


def digest(study: Study) -> str:
    """A name for the state of the study, of what it depends on, and of what measures."""
    modules = (study.module, *study.sources)
    files = [Path(importlib.import_module(name).__file__ or os.devnull) for name in modules]
    measuring = ("study", "clock", "memory", "process", "turns", "figures")
    return results.digest_of(
        (*files, *(Path(__file__).with_name(f"{name}.py") for name in measuring))
    )


def journal_of(study: Study) -> Path:
    """Where the answers of a run are kept until all are there."""
    return results.RESULTS / f".{study.name}.jsonl"
