"""How much of a training's time the guard takes, and how often it may look closely."""

from __future__ import annotations

import time
from collections.abc import Sequence

MOST = 1024
"""However dear a close look is, one is taken every so many steps."""
SETTLING = 3
"""The first steps load and compile things, and say nothing of the others."""
MEMORY = 0.9
"""How much of an average is what it was before."""


class Budget:
    """Keeps the guard below its share of a step by choosing how often it looks closely.

    All times are seconds, and running averages: what a step takes in all, what the guard takes of
    it without any close look, and what each kind of close look takes. What is left of the share is
    divided evenly among the kinds.

    Args:
        share: the part of a step's time that the guard may take; 1 stands for as much as it needs.
        kinds: the kinds of close looks.
    """

    __slots__ = ("_ended", "_looks", "_next", "_steps", "base", "every", "share", "spent", "step")

    def __init__(self, share: float, kinds: Sequence[str]) -> None:
        self.share = share
        self.every = dict.fromkeys(kinds, 1)
        """Of each kind of close look, how many steps lie between two."""
        self.base = self.step = 0.0
        self.spent = 0.0
        """What the guard has taken of the step in progress, without its close looks."""
        self._ended = time.perf_counter()
        self._looks = dict.fromkeys(kinds, 0.0)
        self._next = dict.fromkeys(kinds, 0)
        self._steps = 0

    def started(self) -> None:
        """The training goes on from here."""
        self._ended = time.perf_counter()
        self.spent = 0.0

    def due(self, kind: str, step: int) -> bool:
        """Whether a close look is to be taken in this step."""
        return step >= self._next[kind]

    def looked(self, kind: str, step: int, seconds: float) -> None:
        """A close look in this step took that long."""
        self.spent -= seconds
        self._looks[kind] = _average(self._looks[kind], seconds)
        if self.step:
            self.every[kind] = self._spacing(self._looks[kind])
        self._next[kind] = step + self.every[kind]

    def paused(self, seconds: float) -> None:
        """Something took that long which no usual step does."""
        self.spent -= seconds
        self._ended += seconds

    def stepped(self) -> None:
        """A step ended."""
        now = time.perf_counter()
        self._steps += 1
        if self._steps > SETTLING:
            self.base = _average(self.base, self.spent)
            self.step = _average(self.step, now - self._ended)
        self.spent = 0.0
        self._ended = now

    @property
    def cost(self) -> float:
        """The part of a step that the guard takes on average; 0 before it is known."""
        looks = sum(cost / self.every[kind] for kind, cost in self._looks.items())
        return (self.base + looks) / self.step if self.step else 0.0

    def _spacing(self, cost: float) -> int:
        if self.share >= 1:
            return 1
        room = (self.share * self.step - self.base) / len(self._looks)
        return MOST if room * MOST <= cost else max(1, -int(-cost // room))


def _average(before: float, now: float) -> float:
    return MEMORY * before + (1 - MEMORY) * now if before else now
