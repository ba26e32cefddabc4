"""A long run that can be stopped and taken up again: each answer is kept as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ON_STDERR = Console(stderr=True)


class HasKey(Protocol):
    """A task that has a name which is the same in every run."""

    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=HasKey)


def progress() -> Progress:
    """A progress bar on stderr."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeRemainingColumn(), console=ON_STDERR, transient=True)


class Journal:
    """The answers so far, one JSON object a line.

    The first line says for which state of things they hold (``state``): those of another state are
    dropped.
    """

    def __init__(self, path: Path, state: str, *, fresh: bool = False) -> None:
        self.path = path
        self._state = state
        self.answers: dict[str, dict[str, Any]] = {}
        if not fresh and path.exists():
            self._read()
        if not self.answers:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"state": state}) + "\n", encoding="utf-8")

    def _read(self) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        if not lines or json.loads(lines[0]).get("state") != self._state:
            return
        for line in lines[1:]:
            try:
                answer = json.loads(line)
            except json.JSONDecodeError:  # the run was stopped in the middle of a line
                continue
            self.answers[answer["task"]] = answer

    def add(self, answer: dict[str, Any]) -> None:
        """Keep one answer."""
        self.answers[answer["task"]] = answer
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(answer) + "\n")


def work_through(
    tasks: Iterable[T],
    work: Callable[[T], dict[str, Any]],
    journal: Journal,
    *,
    workers: int,
    prepare: Callable[[], None],
    description: str,
) -> list[dict[str, Any]]:
    """Answer every task, in as many processes, and return the answers in the tasks' order.

    What the journal already holds is not done again. Ctrl-C keeps what is done.
    """
    listed = list(tasks)
    waiting = [task for task in listed if task.key not in journal.answers]
    with progress() as bar:
        shown = bar.add_task(description, total=len(listed), completed=len(listed) - len(waiting))
        try:
            for answer in _answers(waiting, work, workers, prepare):
                journal.add(answer)
                bar.advance(shown)
        except KeyboardInterrupt:
            ON_STDERR.print("stopped; the same command goes on from here")
            raise SystemExit(130) from None
    return [journal.answers[task.key] for task in listed]


def _answers(
    tasks: list[T], work: Callable[[T], dict[str, Any]], workers: int, prepare: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    if not tasks:
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=prepare)
    with pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
