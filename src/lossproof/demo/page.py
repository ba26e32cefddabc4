"""All stories as one HTML page that needs nothing else: no network, no files beside it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

import lossproof
from lossproof.checks.comparison import Comparison
from lossproof.checks.report import Report
from lossproof.demo.story import Block, Code, Pictures, Said, Story, Table
from lossproof.show import plots
from lossproof.show.html import environment
from lossproof.show.source import lines_of

GENERATOR = '<meta name="generator" content="lossproof demo '
"""By this a page tells that it was written here."""
HEAD = 4096
"""Characters in which that stands."""


def render(stories: Sequence[Story]) -> str:
    """The stories as a page, with an index."""
    templates = environment()
    script = templates.loader_source("copy.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = templates.loader_source("report.css") + templates.loader_source("demo.css")
    return templates.get_template("demo.html").render(
        stories=stories,
        kind_of=kind_of,
        listing=listing,
        drawn=plots.can_draw(),
        generator=Markup(f'{GENERATOR}{lossproof.__version__}">'),
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        version=lossproof.__version__,
    )


def kind_of(block: Block) -> str:
    """By which macro of the template a block is drawn."""
    kinds = {
        str: "prose", Code: "code", Table: "table", Said: "said", Pictures: "pictures",
        Report: "report", Comparison: "comparison",
    }  # fmt: skip
    return kinds[type(block)]


def listing(code: Code) -> list[tuple[int, str]]:
    """The lines of a listing with their numbers."""
    return [(one.number, one.before + one.culprit + one.after) for one in lines_of(code.place)]


def is_ours(path: Path) -> bool:
    """Whether a file is a page that was written here."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(HEAD)


def write(text: str, path: Path) -> None:
    """Write the page to a file, which is replaced whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
