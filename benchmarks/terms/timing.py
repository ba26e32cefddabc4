"""Processor time of several ways to take one step, all in turns, and what is said of it."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LEAST = 0.005
"""A turn takes at least so many seconds: a shorter step is taken several times."""
Step = Callable[[], float]
"""Takes a step, and returns the processor time of the part that is measured, in seconds."""


def timed(action: Callable[[], Any]) -> float:
    """The processor time of an action, in seconds."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def in_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in every round, in which each takes its turn.

    What slows the machine down slows all of them. Each has been taken twice before. The order
    moves on by one in each round.
    """
    shortest = min(_warm(step) for step in steps.values())
    repeats = math.ceil(LEAST / max(shortest, 1e-6))
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(sum(steps[name]() for _ in range(repeats)) / repeats)
        gc.collect()
    gc.enable()
    return times


def _warm(step: Step) -> float:
    step()
    return step()


def summed(times: Mapping[str, Sequence[float]], base: str) -> dict[str, dict[str, Any]]:
    """Milliseconds, and the rounds' quotients over the base: medians and quartiles."""
    return {
        name: {
            "rounds": len(taken),
            "median_ms": round(1000 * statistics.median(taken), 3),
            "quartiles_ms": [round(1000 * q, 3) for q in quartiles(taken)],
            **quotient(taken, times[base]),
        }
        for name, taken in times.items()
    }


def quotient(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """The median of the rounds' quotients, with the quartiles."""
    rounds = [a / b for a, b in zip(one, other, strict=True)]
    return {
        "ratio": round(statistics.median(rounds), 3),
        "quartiles": [round(q, 3) for q in quartiles(rounds)],
    }


def quartiles(numbers: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    low, _, high = statistics.quantiles(numbers, n=4)
    return low, high
