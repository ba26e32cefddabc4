"""What the process that tells the stories says to the one that asked for them."""

from __future__ import annotations

from dataclasses import dataclass

from lossproof.demo.story import Story


@dataclass(frozen=True)
class Begun:
    """What is being run now, and how far that is."""

    done: int
    total: int
    words: str


@dataclass(frozen=True)
class Page:
    """The page of all stories."""

    text: str
    drawn: bool
    """Whether it has its pictures, for which matplotlib must be installed."""


Message = Begun | Story | Page
