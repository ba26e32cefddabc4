"""All stories as one HTML page that needs nothing else: no network, no files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

import lossproof
from lossproof.checks.comparison import Comparison
from lossproof.checks.report import Report
from lossproof.demo.page_file import GENERATOR
from lossproof.demo.story import Block, Code, Pictures, Said, Story, Table
from lossproof.show import plots
from lossproof.show.html import document
from lossproof.show.source import lines_of
from lossproof.watcher.alarm import Alarm


def render(stories: Sequence[Story]) -> str:
    """The stories as a page, with an index."""
    return document(
        "demo.html",
        ("report.css", "demo.css"),
        generator=Markup(f'{GENERATOR}{lossproof.__version__}">'),
        stories=stories,
        kind_of=kind_of,
        listing=listing,
        drawn=plots.can_draw(),
    )


def kind_of(block: Block) -> str:
    """By which macro of the template a block is drawn."""
    kinds = {
        str: "prose", Code: "code", Table: "table", Said: "said", Pictures: "pictures",
        Report: "report", Comparison: "comparison", Alarm: "alarm",
    }  # fmt: skip
    return kinds[type(block)]


def listing(code: Code) -> list[tuple[int, str]]:
    """The lines of a listing with their numbers."""
    return [(one.number, one.before + one.culprit + one.after) for one in lines_of(code.place)]
