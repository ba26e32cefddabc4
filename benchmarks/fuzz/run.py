"""10,000 random calls, and what came of them.

``python -m benchmarks fuzz`` (``--help`` lists the options).
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterable
from typing import Annotated, Any

import torch
import typer
from rich.progress import track

from benchmarks.fuzz.examine import examined
from benchmarks.fuzz.surfaces import SURFACES, Surface
from benchmarks.harness import results
from benchmarks.harness.journal import ON_STDERR
from benchmarks.studies import write_pages_of

TOTAL = 10_000
KINDS = ("returned", "refused", "documented error", "user's own error")


def main(
    only: Annotated[str, typer.Option(help="Surfaces whose name has this.")] = "",
    calls: Annotated[int, typer.Option(min=1, help="How many in all.")] = TOTAL,
    seed: Annotated[int, typer.Option(help="Where the random numbers begin.")] = 0,
) -> None:
    """Random calls of all that is public: none may fail in another way than its page says."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    digest = results.source_digest()
    chosen = [surface for surface in SURFACES if only in surface.name]
    found = [_of_surface(surface, calls, seed) for surface in chosen]
    faults = [words for one in found for words in one["faults"]]
    if not only and calls == TOTAL and seed == 0:
        results.refuse_if_changed(digest)
        print(results.save("fuzz", {"machine": results.machine(), "surfaces": found}))
        write_pages_of("fuzz")
    if faults:
        raise SystemExit(1)


def _of_surface(surface: Surface, calls: int, seed: int) -> dict[str, Any]:
    """What came of the calls of one surface."""
    count = max(1, surface.share * calls // TOTAL)
    kinds: collections.Counter[str] = collections.Counter()
    faults = []
    numbers = range(seed, seed + count)
    for number in track(numbers, surface.name, console=ON_STDERR, transient=True):
        outcome = examined(surface.drawn(number))
        kinds[outcome.kind] += 1
        found = [f"{surface.name}, call {number}: {words}" for words in outcome.faults]
        for words in found:
            ON_STDERR.print(words, markup=False)
        faults += found
    return {"name": surface.name, "calls": count, "kinds": dict(kinds), "faults": faults}


def page(data: dict[str, Any] | None) -> Iterable[str]:
    """What is asked of a call, and how many there were of each kind."""
    assert data is not None
    surfaces = data["surfaces"]
    total = sum(one["calls"] for one in surfaces)
    faults = [words for one in surfaces for words in one["faults"]]
    yield "# Random calls"
    yield (
        f"{total:,} random calls of all that is public, each made twice. They begin as right ones, "
        "and some are changed: in layout (strided, expanded, at an offset, with lazy signs), shape "
        "(empty, a scalar, one more or less), dtype, values (NaN, infinities, huge, subnormal), "
        "kind (`None`, a word, an array, a Module where a number belongs), and in their options."
    )
    yield (
        "A call returns, or it is *refused* with a `TypeError` or `ValueError` that names an "
        "argument. Other errors are those that the page of the function speaks of, and those that "
        "a function of the user raises itself. Besides, a call leaves its arguments, their `.grad` "
        "and versions, the random numbers and torch's settings as they were; warns of nothing "
        "but what its page says; gives finite values and gradients in the promised dtype for what "
        "is valid and finite; gives the same the second time; and comes to an end."
    )
    rows = [
        [one["name"], one["calls"], *(one["kinds"].get(kind, 0) for kind in KINDS),
         len(one["faults"])]
        for one in surfaces
    ]  # fmt: skip
    rows.append(["all", *(sum(row[place] for row in rows) for place in range(1, 7))])
    yield results.table(("", "calls", *KINDS, "faults"), rows)
    if faults:
        yield "\n".join(f"- {words}" for words in faults)
    yield (
        f"{results.setting(data)} Again: `python -m benchmarks fuzz`. A call has a number, "
        "by which it is always the same."
    )
