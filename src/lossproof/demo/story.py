"""What a story is: plain data that a terminal and a page can draw, and no drawing.

A story is told in parts. A part shows what was found (words, code, numbers, verdicts, pictures) and
claims what it has shown; a claim that does not hold makes the demo fail.
"""

from __future__ import annotations

import inspect
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossproof.checks.chart import LineChart
from lossproof.checks.comparison import Comparison
from lossproof.checks.report import Location, Report
from lossproof.watcher.alarm import Alarm


@dataclass(frozen=True)
class Code:
    """Lines of a file, shown as they are."""

    place: Location


@dataclass(frozen=True)
class Table:
    """Numbers and words in columns; the first cell of a row names it."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns begin with a number in every row."""
        columns = zip(*self.rows, strict=True)
        return tuple(all(map(_begins_with_number, column)) for column in columns)


@dataclass(frozen=True)
class Said:
    """What a program said, word for word."""

    who: str
    text: str


@dataclass(frozen=True)
class Pictures:
    """Charts beside each other; small ones have neither a legend nor names on their axes."""

    charts: tuple[LineChart, ...]
    small: bool = False


Block = str | Code | Table | Said | Pictures | Report | Comparison | Alarm
"""A string is a paragraph, in which code stands between backticks."""


@dataclass(frozen=True)
class Claim:
    """What a part has shown, and whether it came out so."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Part:
    """One step of a story."""

    title: str
    blocks: tuple[Block, ...] = ()
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Outline:
    """A story before it is told.

    Attributes:
        name: a word or two for it.
        title: what it is about.
        question: what somebody asked.
        answer: what the parts show, in short.
        parts: what is run, one after the other; each has a title in the first line of its
            docstring.
    """

    name: str
    title: str
    question: str
    answer: str
    parts: tuple[Callable[[], Part], ...]


@dataclass(frozen=True)
class Story:
    """A story that was told."""

    number: int
    name: str
    title: str
    question: str
    answer: str
    parts: tuple[Part, ...]
    seconds: float

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of all parts."""
        return tuple(claim for part in self.parts for claim in part.claims)

    @property
    def missed(self) -> tuple[Claim, ...]:
        """The claims that did not come out as told."""
        return tuple(claim for claim in self.claims if not claim.holds)


def tell(outline: Outline, number: int, begin: Callable[[int, int, str], None]) -> Story:
    """Run the parts of a story.

    Args:
        outline: the story.
        number: which one of the stories it is, from 1.
        begin: told before each part how many are done, of how many, and what comes.
    """
    start = time.perf_counter()
    parts = []
    for done, part in enumerate(outline.parts):
        begin(done, len(outline.parts), f"{outline.name}: {heading(part)}")
        parts.append(_told(part))
    return Story(
        number, outline.name, outline.title, outline.question, outline.answer, tuple(parts),
        time.perf_counter() - start,
    )  # fmt: skip


def heading(part: Callable[[], Part]) -> str:
    """The title of a part, which is the first line of its docstring."""
    return (inspect.getdoc(part) or "").partition("\n")[0].rstrip(".")


def _told(part: Callable[[], Part]) -> Part:
    """What a part shows; one that breaks off has claimed in vain to come to its end."""
    try:
        return part()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        claim = f"this part runs to its end ({type(error).__name__}: {error}; {where})"
        return Part(heading(part), (), (Claim(claim, False),))


def code_of(*definitions: Any) -> Code:
    """The lines from the first of these functions or classes to the end of the last."""
    file = sys.modules[definitions[0].__module__].__file__ or ""
    spans = [inspect.getsourcelines(one) for one in definitions]
    first, last = spans[0][1], spans[-1][1] + len(spans[-1][0]) - 1
    return Code(Location.at(file, first, end_line=last))


def table(head: Sequence[str], *rows: Sequence[object]) -> Table:
    """A table of anything; a float is shown to six digits."""
    return Table(tuple(head), tuple(tuple(map(_cell, row)) for row in rows))


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _begins_with_number(cell: str) -> bool:
    try:
        float(cell.partition(" ")[0])
    except ValueError:
        return False
    return True


def found(report: Report, *codes: str) -> bool:
    """Whether a report has findings of just these rules."""
    return {finding.code for finding in report.findings} == set(codes)
