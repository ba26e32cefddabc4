"""How much of a training's time the guard takes, and how often it may look closely."""

from __future__ import annotations

import time
from collections.abc import Sequence

MOST = 1024
"""However dear a close look is, one is taken every so many steps."""
SETTLING = 3
"""The first steps load and compile things, and say nothing of the others."""
LEARNING = 16
"""The first steps are timed one by one."""
WINDOW = 8
"""Later a clock is read in one of so many steps: to read it is a part of what it measures."""
MEMORY = 0.9
"""How much of an average is what it was before."""
OUTLIER = 3.0
"""What is more times the average counts as that: an evaluation in between, or a checkpoint."""


class Budget:
    """Keeps the guard below its share of a step by choosing how often it looks closely.

    All times are seconds, and running averages: what a step takes in all, what the guard takes of
    it without any close look, and what each kind of close look takes. What is left of the share is
    divided evenly among the kinds.

    Args:
        share: the part of a step's time that the guard may take; 1 stands for as much as it needs.
        kinds: the kinds of close looks.
    """

    __slots__ = (
        "_ended",
        "_left",
        "_looks",
        "_steps",
        "_window",
        "base",
        "every",
        "next",
        "share",
        "spent",
        "step",
        "timed",
    )  # fmt: skip

    def __init__(self, share: float, kinds: Sequence[str]) -> None:
        self.share = share
        self.every = dict.fromkeys(kinds, 1)
        """Of each kind of close look, how many steps lie between two."""
        self.base = self.step = 0.0
        self.spent = 0.0
        """What the guard has taken of the step in progress, without its close looks."""
        self.timed = True
        """Whether that is wanted of this step: the first of each window."""
        self._steps = 0
        self._window = self._left = 1
        self._ended = time.perf_counter()
        self._looks = dict.fromkeys(kinds, 0.0)
        self.next = dict.fromkeys(kinds, 0)
        """Of each kind, the step from which on a close look is due."""

    def started(self) -> None:
        """The training goes on from here."""
        self._begin()

    def looked(self, kind: str, step: int, seconds: float) -> None:
        """A close look in this step took that long."""
        self._leave_out(seconds)
        self._looks[kind] = _average(self._looks[kind], seconds)
        if self.step:
            self.every[kind] = self._spacing(self._looks[kind])
        self.next[kind] = step + self.every[kind]

    def paused(self, seconds: float) -> None:
        """Something took that long which no usual step does."""
        self._leave_out(seconds)
        self._ended += seconds

    def stepped(self) -> None:
        """A step ended."""
        self._left -= 1
        if self._left:
            self.timed = False
            return
        self._steps += self._window
        if self._steps > SETTLING:
            self.base = _average(self.base, self.spent)
            self.step = _average(self.step, (time.perf_counter() - self._ended) / self._window)
        self._begin()

    def _leave_out(self, seconds: float) -> None:
        if self.timed:
            self.spent -= seconds

    def _begin(self) -> None:
        """Begin a window."""
        self._window = self._left = 1 if self._steps < LEARNING else WINDOW
        self.timed = True
        self.spent = 0.0
        self._ended = time.perf_counter()

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
    if not before:
        return now
    return MEMORY * before + (1 - MEMORY) * min(now, OUTLIER * before)
