"""Rounds in which each method takes its turn.

A method keeps its process, asleep, from its first turn to its last: what it has compiled and loaded
is paid for once. Where the processes together would not fit into memory, each turn has a new one.
In both, what slows the machine down for a while slows one round of all methods, and a quotient is
taken within a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.harness.clock import Turn, Warmth
from benchmarks.harness.process import Failure

LEAST_ROUNDS = 5


class Takes(Protocol):
    """A process that takes turns."""

    warmth: Warmth

    def turn(self) -> Turn: ...
    def facts(self) -> dict[str, Any]: ...
    def end(self) -> None: ...


Start = Callable[[], Takes]


class Kept:
    """A process that is kept from turn to turn."""

    def __init__(self, start: Start) -> None:
        self._process = start()
        self.warmth = self._process.warmth

    def turn(self) -> Turn:
        return self._process.turn()

    def facts(self) -> dict[str, Any]:
        return self._process.facts()

    def end(self) -> None:
        self._process.end()


class Anew:
    """A new process for each turn; the first is kept for nothing but its warmth."""

    def __init__(self, start: Start) -> None:
        self._start = start
        process = start()
        self.warmth = process.warmth
        process.end()
        self._facts: dict[str, Any] | None = None

    def turn(self) -> Turn:
        process = self._start()
        try:
            turn = process.turn()
            if self._facts is None:
                self._facts = process.facts()
            return turn
        finally:
            process.end()

    def facts(self) -> dict[str, Any]:
        return self._facts or {}

    def end(self) -> None:
        """Nothing is kept."""


@dataclass
class Taken:
    """All turns of one method."""

    warmth: Warmth | None = None
    turns: list[Turn] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


def in_turns(
    starts: Mapping[str, Start],
    *,
    rounds: int,
    seconds: float,
    keep: bool,
    seen: Callable[[str], None] = lambda words: None,
    wall: Callable[[], float] = time.perf_counter,
) -> dict[str, Taken]:
    """Turns of all methods; one that fails drops out, and the others go on.

    The order moves on by one in each round. ``seen`` is told what is being done.
    """
    taken = {name: Taken() for name in starts}
    awake: dict[str, Kept | Anew] = {}
    try:
        for name, start in starts.items():
            seen(f"{name}: warming up")
            try:
                awake[name] = Kept(start) if keep else Anew(start)
                taken[name].warmth = awake[name].warmth
            except Failure as failure:
                taken[name].failure = failure
        begin = wall()
        for number in range(rounds):
            if number >= LEAST_ROUNDS and wall() - begin > seconds:
                break
            seen(f"round {number + 1} of {rounds}")
            _round(awake, taken, number)
        for name, process in awake.items():
            try:
                taken[name].facts = process.facts()
            except Failure as failure:
                taken[name].failure = failure
    finally:
        for process in awake.values():
            process.end()
    return taken


def _round(awake: dict[str, Kept | Anew], taken: dict[str, Taken], number: int) -> None:
    names = list(awake)
    first = number % len(names) if names else 0
    for name in names[first:] + names[:first]:
        try:
            taken[name].turns.append(awake[name].turn())
        except Failure as failure:
            taken[name].failure = failure
            awake.pop(name).end()
