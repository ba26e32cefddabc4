"""What is said of many times: median, quartiles, and quotients taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.harness.study import WHOLE, Kind
from benchmarks.harness.turns import Taken

Summary = dict[str, Any]


def summary(numbers: Sequence[float]) -> Summary:
    """Median and quartiles, to four digits."""
    return {
        "median": short(statistics.median(numbers)),
        "quartiles": [short(q) for q in quartiles(numbers)],
    }


def quartiles(numbers: Sequence[float]) -> tuple[float, float]:
    """The first and the third."""
    if len(numbers) == 1:
        return numbers[0], numbers[0]
    low, _, high = statistics.quantiles(numbers, n=4)
    return low, high


def quotient(one: Sequence[float], other: Sequence[float]) -> Summary:
    """Of each round's quotients, so that what slows a round down slows both."""
    return summary([a / b for a, b in zip(one, other, strict=True)])


def short(number: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{number:.4g}")


def of_case(
    taken: dict[str, Taken], baseline: tuple[str, ...], kinds: Mapping[str, Kind]
) -> dict[str, dict[str, Any]]:
    """The figures of each method for one case, as they are saved."""
    base = fastest(taken, baseline)
    found = {
        name: _of_method(own, taken[base] if base is not None else None)
        for name, own in taken.items()
    }
    peer = fastest(taken, [name for name in taken if kinds[name] == Kind.peer])
    if peer is not None:
        for name, own in taken.items():
            if kinds[name] == Kind.ours and own.failure is None:
                ratio = quotient(_whole(own), _whole(taken[peer]))
                found[name]["over_fastest_peer"] = {"peer": peer, **ratio}
    return found


def fastest(taken: dict[str, Taken], names: Iterable[str]) -> str | None:
    """The one of these with the least median, if any was measured."""
    there = [name for name in names if name in taken and taken[name].failure is None]
    return min(there, key=lambda name: statistics.median(_whole(taken[name])), default=None)


def _whole(own: Taken) -> list[float]:
    return [turn.processor[WHOLE] for turn in own.turns]


def _of_method(own: Taken, base: Taken | None) -> dict[str, Any]:
    if own.failure is not None:
        return said_of(own.failure.words, own.failure.left_out)
    assert own.warmth is not None
    phases = list(own.turns[0].processor)
    processor = {phase: [1000 * t.processor[phase] for t in own.turns] for phase in phases}
    wall = {phase: [1000 * t.wall[phase] for t in own.turns] for phase in phases}
    found: dict[str, Any] = {
        "rounds": len(own.turns),
        "repeats": own.warmth.repeats,
        "first_call_s": short(own.warmth.first_call),
        "processor_ms": {phase: summary(times) for phase, times in processor.items()},
        "wall_ms": {phase: summary(times) for phase, times in wall.items()},
        "each_round_ms": [short(t) for t in processor[WHOLE]],
    }
    if base is not None:
        shared = [phase for phase in phases if phase in base.turns[0].processor]
        found["ratio"] = {
            phase: quotient(
                [t.processor[phase] for t in own.turns], [t.processor[phase] for t in base.turns]
            )
            for phase in shared
        }
    if own.facts:
        found["facts"] = own.facts
    return found


def said_of(words: str, left_out: bool) -> dict[str, str]:
    """What stands for figures that there are not."""
    return {"left_out" if left_out else "failed": words}
