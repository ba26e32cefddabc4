"""What the process that asks for the stories and the one that tells them say to each other.

All of it is words and numbers, so that the side that asks needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """Which stories are wanted, by number, and for what kind of terminal."""

    numbers: tuple[int, ...]
    color: bool
    width: int


@dataclass(frozen=True)
class Begun:
    """What is being run now, and how far that is."""

    done: int
    total: int
    words: str


@dataclass(frozen=True)
class Told:
    """A story as text, and in a line; whether it came out as told."""

    text: str
    summary: str
    holds: bool


@dataclass(frozen=True)
class Page:
    """The page of all stories; it has its pictures where matplotlib is installed."""

    text: str
    has_pictures: bool


Message = Begun | Told | Page
