"""How often each instruction of the user's code performs torch operations in one call.

An instruction that runs many times within one and the same frame stands in a loop. Counting per
frame tells the loop of a function from a function that is called in a loop.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

from torch.overrides import TorchFunctionMode

from lossproof.checks.report import Location
from lossproof.checks.sources import Sources, locate, syntax_tree
from lossproof.checks.trace import DESCRIPTIONS, operation_name

Instruction = tuple[CodeType, int]


@dataclass(frozen=True)
class Repetition:
    """A loop of the user's that performs torch operations in each round."""

    location: Location
    """The loop, or the repeated line where its source cannot be read."""
    rounds: int
    """How often its most repeated instruction ran within one frame."""
    operations: int
    """How many torch operations it performed, the functions it called included."""


class RepetitionCounter(TorchFunctionMode):
    """Counts, for every instruction of the user's code, its runs and its torch operations."""

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self.sources = sources
        self.total = 0
        self._operations: Counter[Instruction] = Counter()
        # Frames are kept, so that none gets the identity of one that has ended.
        self._runs: dict[tuple[FrameType, int], int] = defaultdict(int)
        self._last: dict[FrameType, tuple[FrameType, int]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = operation_name(func)
        out = func(*args, **(kwargs or {}))
        if name not in DESCRIPTIONS:
            self._count()
        return out

    def _count(self) -> None:
        counted = False
        for frame, called in self.sources.calls():
            self._operations[frame.f_code, frame.f_lasti] += 1
            # A call that performs several operations is still one run of the instruction, also
            # where it is a library that performs them.
            if self._last.get(frame) != (called, frame.f_lasti):
                self._runs[frame, frame.f_lasti] += 1
            self._last[frame] = (called, frame.f_lasti)
            counted = True
        self.total += counted

    def repetitions(self, rounds: int) -> list[Repetition]:
        """The loops with at least so many rounds, those with most operations first."""
        most: dict[Instruction, int] = {}
        for (frame, instruction), runs in self._runs.items():
            key = (frame.f_code, instruction)
            most[key] = max(most.get(key, 0), runs)
        loops: dict[Location, Repetition] = {}
        for (code, instruction), runs in most.items():
            if runs < rounds:
                continue
            place = _loop_around(locate(code, instruction), code)
            known = loops.get(place, Repetition(place, 0, 0))
            loops[place] = Repetition(
                place,
                max(known.rounds, runs),
                known.operations + self._operations[code, instruction],
            )
        return sorted(loops.values(), key=lambda loop: -loop.operations)


def _loop_around(place: Location, code: CodeType) -> Location:
    """The outermost loop of the function that the place stands in, or the place itself."""
    loops = _loops(syntax_tree(place.file))
    around = [node for node in loops if _covers(node, place, code.co_firstlineno)]
    if not around:
        return place
    line = min(node.lineno for node in around)
    return Location.at(place.file, line, function=place.function)


@lru_cache(maxsize=16)
def _loops(tree: ast.Module) -> tuple[ast.expr | ast.stmt, ...]:
    kinds = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return tuple(node for node in ast.walk(tree) if isinstance(node, kinds))


def _covers(node: ast.expr | ast.stmt, place: Location, first: int) -> bool:
    """Whether the loop belongs to the function that begins at ``first`` and holds the place."""
    return first <= node.lineno <= place.line <= (node.end_lineno or node.lineno)
