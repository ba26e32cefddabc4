"""A loss of a library, as its users have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.libraries.draw import Draw

PARAMETERS_SEED = 15485863


@dataclass(frozen=True)
class Entry:
    """How a loss is made, and what it is called with."""

    name: str
    construct: Callable[[], Callable[..., Any]]
    draw: Callable[[Draw], tuple[Any, ...]]

    def make(self) -> Callable[..., Any]:
        """The loss; if it has parameters, they are the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(PARAMETERS_SEED)
            return self.construct()

    def inputs(self, seed: int) -> tuple[Any, ...]:
        """Ordinary arguments; those that a gradient is wanted for require one."""
        return self.draw(Draw(seed))


class Entries(dict[str, Entry]):
    """The losses of one library, by name."""

    def add(
        self,
        name: str,
        construct: Callable[[], Callable[..., Any]],
        draw: Callable[[Draw], tuple[Any, ...]],
    ) -> None:
        """Add a loss under a name of its own."""
        if name in self:
            raise ValueError(f"`{name}` is there twice")
        self[name] = Entry(name, construct, draw)
