"""The time that a step takes, by the processor's clock and by the wall's."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.harness.study import WHOLE, Step

LEAST = 0.02
"""Seconds: a shorter step is taken several times a turn."""
MOST_REPEATS = 1000


class Clock(Protocol):
    """Two clocks, in seconds from whenever."""

    def processor(self) -> float: ...
    def wall(self) -> float: ...


class Clocks:
    """Those of this process and of this machine."""

    def processor(self) -> float:
        return time.process_time()

    def wall(self) -> float:
        return time.perf_counter()


CLOCKS = Clocks()


@dataclass
class Turn:
    """Seconds a step of one turn, by phase and whole; the mean, where it was taken repeatedly."""

    processor: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)


@dataclass
class Warmth:
    """What was seen while the step was taken for the first times."""

    first_call: float
    """Seconds by the wall: a compiler may work in other processes."""
    repeats: int
    """How often the step is taken in each turn."""


def once(step: Step, clock: Clock = CLOCKS) -> Turn:
    """Take the step once, and time its phases."""
    step.before()
    turn = Turn()
    for name, phase in step.phases.items():
        wall, processor = clock.wall(), clock.processor()
        phase()
        turn.processor[name] = clock.processor() - processor
        turn.wall[name] = clock.wall() - wall
    turn.processor[WHOLE] = sum(turn.processor.values())
    turn.wall[WHOLE] = sum(turn.wall.values())
    return turn


def warmed_up(step: Step, clock: Clock = CLOCKS) -> Warmth:
    """Take the step until all is loaded, compiled and in the caches that it needs."""
    if step.warm is not None:
        begin = clock.wall()
        step.warm()
        return Warmth(clock.wall() - begin, 1)
    first = once(step, clock)
    again = once(step, clock).processor[WHOLE]
    if again < LEAST:
        again = min(again, once(step, clock).processor[WHOLE])
    repeats = math.ceil(LEAST / max(again, LEAST / MOST_REPEATS))
    return Warmth(first.wall[WHOLE], repeats)


def turn_of(step: Step, repeats: int, clock: Clock = CLOCKS) -> Turn:
    """One turn: the step as often as that.

    A step that is repeated is first taken once without being counted: what the process had in the
    caches has been overwritten while others had their turns, and a short step would pay for it.
    """
    gc.collect()
    gc.disable()
    try:
        if repeats > 1:
            step.take()
        turns = [once(step, clock) for _ in range(repeats)]
    finally:
        gc.enable()
    return Turn(
        {name: sum(t.processor[name] for t in turns) / repeats for name in turns[0].processor},
        {name: sum(t.wall[name] for t in turns) / repeats for name in turns[0].wall},
    )
