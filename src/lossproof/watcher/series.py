"""One figure over the steps of a training, and whether it explodes."""

from __future__ import annotations

import itertools
from collections import deque
from statistics import median

SUDDEN = 1e3
"""How many times larger than everything before it a figure is that explodes in one step."""
STEADY = 1e2
"""How many times larger than the middle of the ring it is after rising for some steps."""
RISING = 3
"""For how many steps it must have risen."""
OF_THE_START = 0.1
"""What part of its beginning a figure must reach that explodes in one step, and all of it if it
rises: what has shrunk to nothing may jump about."""


class Series:
    """The last figures of one kind, such as the values of a term.

    To add one that is not the largest takes a comparison and no more (:meth:`takes`): this happens
    in every step of a training. The rest is only asked where a figure has risen.

    Args:
        length: how many are kept, at least 4.

    Attributes:
        sizes: the magnitudes, the newest last.
        top: the largest of about the last `length`; 0 where there is none.
    """

    __slots__ = ("_kept", "_left", "_start", "sizes", "top")

    def __init__(self, length: int) -> None:
        self.sizes: deque[float] = deque(maxlen=length)
        self.top = 0.0
        self._kept = length // 2
        self._left = self._kept
        self._start = 0.0

    def add(self, size: float, floor: float = 0.0) -> bool:
        """Add a finite magnitude, and tell whether it explodes.

        A figure explodes if it is 1,000 times what it was at most before, or if it has risen for
        three steps to 100 times the middle of the ring, or to 1,000 times what it began with.

        Args:
            size: the magnitude, 0 or more.
            floor: how large it must be to matter: a term that grows from nothing to little is none.
        """
        exploding = size > self.top and size > floor and self._explodes(size)
        self.sizes.append(size)
        if len(self.sizes) <= RISING:
            self._start = max(self.sizes)
        self.top = max(self.top, size)
        self._left -= 1
        if not self._left:
            self._forget()
        return exploding

    def takes(self, value: float) -> bool:
        """Add a value if it is not larger than those before it, and tell whether that was so."""
        size = value if value >= 0.0 else -value
        if not size <= self.top:  # or not a number
            return False
        self.sizes.append(size)
        self._left -= 1
        if not self._left:
            self._forget()
        return True

    def middle(self) -> float:
        """The median magnitude in the ring; 0 where there is none."""
        return median(self.sizes) if self.sizes else 0.0

    def _forget(self) -> None:
        """The largest is forgotten some time after it has left the ring."""
        self._left = self._kept
        self.top = max(self.sizes)

    def _explodes(self, size: float) -> bool:
        if self.top <= 0.0 or size < OF_THE_START * self._start:
            return False
        if size > SUDDEN * self.top:
            return True
        if not self._has_risen(size) or size < self._start:
            return False
        return size > SUDDEN * self._start > 0.0 or size > STEADY * self.middle() > 0.0

    def _has_risen(self, size: float) -> bool:
        last = [*list(self.sizes)[-RISING:], size]
        return len(last) > RISING and all(a < b for a, b in itertools.pairwise(last))
