"""What ``import lossproof`` adds to ``import torch``, and what the first use of each name loads.

``python -m benchmarks import_time`` (``--help`` lists the options). Every figure is of a process of
its own; the statements take turns, so that what slows the machine down for a while slows all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

import lossproof
from benchmarks.harness import figures, results
from benchmarks.harness.tables import number, shown
from benchmarks.studies import write_pages_of

NAME = "import_time"
AIM_MS = 50
LEAST_ROUNDS = 15
PROGRAM = """\
import json, sys, time
exec({first!r})
before, wall, processor = set(sys.modules), time.perf_counter(), time.process_time()
exec({then!r})
wall, processor = time.perf_counter() - wall, time.process_time() - processor
new = sorted(set(sys.modules) - before)
print(json.dumps({{"wall_ms": 1e3 * wall, "processor_ms": 1e3 * processor, "modules": len(new)}}))
"""
TORCH, BOTH, ALONE, ADDED = "torch", "torch and lossproof", "lossproof alone", "lossproof"


@dataclass(frozen=True)
class Question:
    """What is timed, and what is run before it."""

    name: str
    then: str
    first: str = ""

    def ask(self) -> dict[str, float]:
        """Time it in a new process."""
        program = PROGRAM.format(first=self.first, then=self.then)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        answer: dict[str, float] = json.loads(done.stdout)
        return answer


def questions() -> tuple[Question, ...]:
    """The imports, and the first use of each public name; what has one home is loaded together."""
    homes: dict[str, list[str]] = {}
    for name in lossproof.__all__:
        homes.setdefault(lossproof._HOMES[name], []).append(name)
    names = (
        Question(", ".join(all_of_it), f"lossproof.{all_of_it[0]}", "import torch, lossproof")
        for all_of_it in homes.values()
    )
    return (
        Question(TORCH, "import torch"),
        Question(BOTH, "import torch, lossproof"),
        Question(ALONE, "import lossproof"),
        Question(ADDED, "import lossproof", "import torch"),
        *names,
    )


def in_turns(asked: Sequence[Question], rounds: int) -> dict[str, list[dict[str, float]]]:
    """All answers; each round begins with another question."""
    answers: dict[str, list[dict[str, float]]] = {question.name: [] for question in asked}
    with typer.progressbar(length=rounds * len(asked), file=sys.stderr) as bar:
        for turn in range(rounds):
            start = turn % len(asked)
            for question in (*asked[start:], *asked[:start]):
                answers[question.name].append(question.ask())
                bar.update(1)
    return answers


def found(answers: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Median and quartiles of each, and of the difference of two imports, round by round."""

    def of(name: str, key: str) -> list[float]:
        return [answer[key] for answer in answers[name]]

    told: dict[str, Any] = {
        name: {
            "wall_ms": figures.summary(of(name, "wall_ms")),
            "processor_ms": figures.summary(of(name, "processor_ms")),
            "modules": max(of(name, "modules")),
        }
        for name in answers
    }
    told["difference"] = {
        key: figures.summary([a - b for a, b in zip(of(BOTH, key), of(TORCH, key), strict=True)])
        for key in ("wall_ms", "processor_ms")
    }
    return told


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Processes for each statement.")] = 15,
) -> None:
    """Time the imports; a run of enough rounds writes the results."""
    digest = results.source_digest()
    data = {
        "machine": results.machine(),
        "rounds": rounds,
        "figures": found(in_turns(questions(), rounds)),
    }
    results.refuse_if_changed(digest)
    print("\n\n".join(page(data)))
    if rounds >= LEAST_ROUNDS:
        print(results.save(NAME, data))
        write_pages_of(NAME)


def page(data: dict[str, Any]) -> Iterable[str]:
    """The page of the study."""
    told = data["figures"]
    rows = (
        ("`import torch`", TORCH, ""),
        ("`import torch, lossproof`", BOTH, ""),
        ("`import lossproof` after `import torch`", ADDED, f"{AIM_MS}"),
        ("`import lossproof` alone: torch is not loaded", ALONE, f"{AIM_MS}"),
    )
    difference = told["difference"]
    yield "# Import time"
    yield (
        "`import lossproof` adds little to `import torch`, because nothing is loaded before it is "
        f"used. Each statement in {data['rounds']} processes of its own, in turns: the median and "
        "the quartiles, in milliseconds."
    )
    yield f"{results.setting(data)} Again: `python -m benchmarks {NAME}`."
    yield results.table(
        ("", "time", "processor's time", "modules", "aim"),
        [(words, *_cells(told[name]), aim) for words, name, aim in rows],
    )
    yield (
        "The difference between the first two rows, round by round, is "
        f"{_signed(difference['wall_ms'])} ms, and {_signed(difference['processor_ms'])} ms of the "
        "processor's time: what torch itself takes varies by more than lossproof adds."
    )
    yield "## The first use of a name"
    yield (
        "After `import torch, lossproof`: what reading a name loads, once in a process. Names in "
        "one row have one home."
    )
    names = [name for name in told if name not in (TORCH, BOTH, ALONE, ADDED, "difference")]
    yield results.table(
        ("", "time", "processor's time", "modules"),
        [(f"`{name}`", *_cells(told[name])) for name in names],
    )


def _cells(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return shown(one["wall_ms"]), shown(one["processor_ms"]), str(int(one["modules"]))


def _signed(one: Mapping[str, Any]) -> str:
    low, high = (number(quartile) for quartile in one["quartiles"])
    return f"{number(one['median'])} ({low} to {high})"
