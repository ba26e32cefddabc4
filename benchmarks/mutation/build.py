"""The mutants of the study: made, written to files, and classified by what is true of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutation.catalogue import Loaded, Subject, load
from benchmarks.mutation.mutants import Mutant, mutants, sample
from benchmarks.mutation.truth import REAL, Truth, classify

PER_SUBJECT = 21
"""How many real mutants of each backward are checked."""

BUILD = Path(tempfile.gettempdir()) / "lossproof-mutants"


@dataclass(frozen=True)
class Case:
    """A mutant and what is true of it."""

    mutant: Mutant
    truth: Truth


def write(mutant: Mutant) -> Path:
    """The mutant as a file: what is checked must have a source that can be read."""
    path = BUILD / f"{mutant.key.replace('-', '_')}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != mutant.source:
        BUILD.mkdir(parents=True, exist_ok=True)
        path.write_text(mutant.source, encoding="utf-8")
    return path


def load_mutant(mutant: Mutant) -> Loaded:
    """Import the mutant."""
    path = write(mutant)
    return load(path, path.stem)


def cases_of(subject: Subject) -> list[Case]:
    """Every mutant of one backward, classified."""
    right = subject.load()
    return [Case(mutant, classify(load_mutant(mutant), right)) for mutant in mutants(subject)]


def all_cases(wanted: Iterable[Subject], done: Callable[[Subject], None]) -> list[Case]:
    """Every mutant of these backwards, classified; ``done`` is told of each that is finished."""
    found = []
    for subject in wanted:
        found += cases_of(subject)
        done(subject)
    return found


def chosen(cases: Iterable[Case], per_subject: int | None = PER_SUBJECT) -> list[Case]:
    """The real mutants that are checked: a sample that is the same every time."""
    real = {case.mutant.key: case for case in cases if case.truth.label == REAL}
    return [real[m.key] for m in sample((case.mutant for case in real.values()), per_subject)]
