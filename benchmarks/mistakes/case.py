"""A mistake: the wrong loss, the right one, the inputs, and the rules that may name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Make = Callable[[], tuple[Callable[..., Any], Callable[..., Any], Callable[[], tuple[Any, ...]]]]


@dataclass(frozen=True)
class Mistake:
    """One case. ``make`` gives the wrong loss, the right loss and a function for the inputs."""

    name: str
    what: str
    rules: tuple[str, ...]
    make: Make


MISTAKES: list[Mistake] = []


def mistake(*rules: str) -> Callable[[Make], Make]:
    """Register a case; the findings that name the mistake rightly bear one of these codes."""

    def register(make: Make) -> Make:
        what = (make.__doc__ or "").strip().splitlines()[0]
        MISTAKES.append(Mistake(make.__name__, what, rules, make))
        return make

    return register
