"""All that is called at random, how often, and one random call of each."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.fuzz import checks, losses, speed, terms, watch, write
from benchmarks.fuzz.examine import Call


@dataclass(frozen=True)
class Surface:
    """One entry to lossproof.

    Args:
        name: what is called.
        draw: how a call is drawn; what it returns makes it anew each time.
        share: how many of 10,000 calls it gets.
    """

    name: str
    draw: Callable[[Random], Callable[[], Call]]
    share: int

    def drawn(self, seed: int) -> Callable[[], Call]:
        """The call of a seed, which is another for each surface."""
        return self.draw(Random(zlib.crc32(self.name.encode()) + (seed << 32)))


SURFACES = (
    Surface("the losses, as functions", losses.call_of_function, 2900),
    Surface("the losses, as Modules", losses.call_of_module, 1800),
    Surface("reduce", write.call_of_reduce, 700),
    Surface("as_module", write.call_of_as_module, 400),
    Surface("from_numpy", write.call_of_from_numpy, 300),
    Surface("straight_through", write.call_of_straight_through, 200),
    Surface("perturbed", write.call_of_perturbed, 200),
    Surface("term_gradients", terms.call_of_term_gradients, 600),
    Surface("the balancers", terms.call_of_balancer, 1200),
    Surface("chunk", speed.call_of_chunk, 500),
    Surface("pairs", speed.call_of_pairs, 500),
    Surface("fuse", speed.call_of_fuse, 150),
    Surface("embed", speed.call_of_embed, 200),
    Surface("watch", watch.call_of_watch, 200),
    Surface("check, assert_right", checks.call_of_check, 80),
    Surface("compare", checks.call_of_compare, 70),
)
