"""All studies, by the name of their command, and all pages, with the results they are made from."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import results, tables
from benchmarks.harness.study import Study

MEASURED: tuple[str, ...] = (
    "benchmarks.cost",
    "benchmarks.catalogue.speed",
    "benchmarks.terms.engine",
    "benchmarks.terms.weights",
    "benchmarks.speed.chunk",
    "benchmarks.speed.pairs",
    "benchmarks.speed.encoder",
    "benchmarks.speed.fusing",
    "benchmarks.speed.allocator",
    "benchmarks.watch",
)
"""Modules with a :class:`Study` or more among their globals, which the harness runs."""


@dataclass(frozen=True)
class Command:
    """A study that runs itself: it counts what checks find, or trains, rather than measures."""

    name: str
    module: str
    asks: str
    takes: str

    def main(self) -> Callable[..., None]:
        """What its command calls."""
        main: Callable[..., None] = importlib.import_module(self.module).main
        return main


COMMANDS = (
    Command(
        "mutation", "benchmarks.mutation.run",
        "which wrong backwards are found, and is the cause named?", "10 min",
    ),
    Command(
        "false_alarms", "benchmarks.false_alarms",
        "is anything said against torch's own losses, and are small errors planted in them seen?",
        "10 min",
    ),
    Command(
        "fuzz", "benchmarks.fuzz.run",
        "does any of 10,000 random calls fail in another way than its page says?", "10 min",
    ),
    Command(
        "mistakes", "benchmarks.mistakes.run",
        "which mistakes that people make are found, alone and beside a right loss?", "2 min",
    ),
    Command(
        "libraries", "benchmarks.libraries.run",
        "is anything said against the losses of well-known libraries, and how long does a check "
        "take?", "3 min",
    ),
    Command(
        "import_time", "benchmarks.import_time",
        "what does `import lossproof` add to `import torch`?", "15 min",
    ),
    Command(
        "catalogue", "benchmarks.catalogue.run",
        "do our losses stand what any loss should, do their copies in other libraries, and are the "
        "values the same?", "30 min",
    ),
    Command(
        "terms_helmholtz", "benchmarks.terms.helmholtz",
        "what error do the balancers reach where learning-rate annealing was first shown?", "2 h",
    ),
    Command(
        "speed_half", "benchmarks.speed.half",
        "what do chunks lose of a big output layer's gradient in half precision?", "6 min",
    ),
    Command(
        "speed_exactness", "benchmarks.speed.exactness",
        "are chunked losses, and those over pairs, equal to the plain ones in all that a loss may "
        "be asked?", "2 min",
    ),
    Command(
        "speed_held", "benchmarks.speed.held",
        "what do two losses hold in memory over one step, plain and in parts?", "1 min",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A page of the documentation, made from results alone."""

    name: str
    results: tuple[str, ...]
    """In place of those that are not there the blocks get None."""
    blocks: str | Callable[..., Iterable[Any]]
    """What makes its blocks, or where that is: ``"module:function"``."""

    def write(self) -> Any:
        """Make it from what is saved; without results there is no page."""
        found = [results.read(name) for name in self.results]
        if not any(found):
            return None
        return results.save_page(self.name, self.made(*found))

    def made(self, *found: dict[str, Any] | None) -> Iterable[Any]:
        """Its blocks."""
        if callable(self.blocks):
            return self.blocks(*found)
        module, _, function = self.blocks.partition(":")
        blocks: Iterable[Any] = getattr(importlib.import_module(module), function)(*found)
        return blocks


@dataclass(frozen=True)
class Pictures:
    """Pictures of a page that is written by hand, made from results alone."""

    name: str
    results: tuple[str]
    drawn_by: str
    """What draws them all: ``"module:function"``."""

    def write(self) -> Any:
        """Draw them from what is saved, and name the results; without results there are none."""
        data = results.read(self.results[0])
        if data is None:
            return None
        module, _, function = self.drawn_by.partition(":")
        getattr(importlib.import_module(module), function)(data)
        return f"the pictures of {self.name}"


PICTURES = (Pictures("docs/speed", ("speed_held",), "benchmarks.speed.held:draw"),)
PAGES = (
    Page("mutation", ("mutation",), "benchmarks.mutation.tables:page"),
    Page("false_alarms", ("false_alarms",), "benchmarks.false_alarms:page"),
    Page("import_time", ("import_time",), "benchmarks.import_time:page"),
    Page("fuzz", ("fuzz",), "benchmarks.fuzz.run:page"),
    Page("mistakes", ("mistakes",), "benchmarks.mistakes.run:page"),
    Page("libraries", ("libraries",), "benchmarks.libraries.tables:page"),
    Page("catalogue", ("catalogue",), "benchmarks.catalogue.tables:page"),
    Page(
        "terms",
        ("terms_engine", "terms_helmholtz", "terms_weights"),
        "benchmarks.terms.tables:page",
    ),
    Page(
        "speed_chunk",
        ("speed_chunk_memory", "speed_chunk_times", "speed_chunk_vocabulary"),
        "benchmarks.speed.tables:chunk_page",
    ),
    Page(
        "speed_pairs",
        ("speed_pairs_memory", "speed_pairs_times", "speed_embed"),
        "benchmarks.speed.tables:pairs_page",
    ),
    Page(
        "speed_fuse",
        ("speed_fuse_kept", "speed_fuse_fresh", "speed_fuse_catalogue"),
        "benchmarks.speed.fusing:page",
    ),
    Page("speed_half", ("speed_half",), "benchmarks.speed.tables:half_page"),
    Page("speed_exactness", ("speed_exactness",), "benchmarks.speed.tables:exactness_page"),
    Page("../speed/allocator", ("speed_allocator",), "benchmarks.speed.allocator:page"),
)


def measured() -> dict[str, Study]:
    """The studies that the harness runs."""
    found: dict[str, Study] = {}
    for module in MEASURED:
        everything = vars(importlib.import_module(module)).values()
        found |= {study.name: study for study in everything if isinstance(study, Study)}
    return found


def pages() -> Iterator[Page]:
    """Every page: those above, and one for each measured study that is on none of them."""
    yield from PAGES
    on_a_page = {name for page in PAGES for name in page.results}
    for study in measured().values():
        if study.name not in on_a_page:
            yield Page(study.name, (study.name,), _page_of(study))


def _page_of(study: Study) -> Callable[[dict[str, Any]], Iterable[Any]]:
    return study.page or (lambda data: tables.page(study.title, study.asks, data))


def write_pages_of(name: str) -> None:
    """Make the pages on which the results of a study are shown."""
    for page in (*pages(), *PICTURES):
        if name in page.results:
            print(page.write())
