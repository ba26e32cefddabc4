"""Reports as one HTML file that needs nothing else: no network, no fonts, no images beside it.

Names, messages and sources come from the user's code and may hold anything. Jinja escapes every
one of them; control characters and those that change the direction of writing are spelt out
before; and the page forbids itself to load or to run anything but its own few lines of script.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

import lossproof
from lossproof.checks.chart import Chart, HeatMap, LineChart, Unmeasured
from lossproof.checks.comparison import Comparison
from lossproof.checks.report import Location, Number, Outcome, Report, Severity
from lossproof.show import comparison, plots
from lossproof.show.source import Line, lines_of, shown_path, visible
from lossproof.show.whole_file import write_whole

AROUND = 2
"""Lines of source shown before and after the culprit."""
MOST_LINES = 12
"""Of a longer span only the beginning and the end are shown."""
VERDICTS = {
    Severity.ERROR: ("wrong", "Wrong"),
    Severity.WARNING: ("doubtful", "Doubtful"),
    Severity.PERFORMANCE: ("slow", "Slow"),
}


def render(reports: Sequence[Report]) -> str:
    """The reports as a page, with an index where there are several.

    Args:
        reports: what to show. Their charts are measured now where they were not before.

    Example:
        >>> from lossproof.checks.report import Report
        >>> page = render([Report("my_loss", None, (), (), (), 0, 0.1)])
        >>> "<title>my_loss: undecided" in page
        True
    """
    return document(
        "report.html",
        ("report.css",),
        generator=Markup('<meta name="generator" content="lossproof {}">').format(
            lossproof.__version__
        ),
        reports=[report.with_charts() for report in reports],
        summary=_summary(reports),
    )


def document(template: str, style_sheets: Sequence[str], **shown: Any) -> str:
    """A page made from a template that extends ``page.html``.

    Args:
        template: its name.
        style_sheets: the names of the style sheets that it wants, which lie beside it.
        **shown: what it shows.
    """
    templates = environment()
    script = templates.loader_source("copy.js")
    return templates.get_template(template).render(
        style=Markup("".join(map(templates.loader_source, style_sheets))),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=lossproof.__version__,
        **shown,
    )


def write(reports: Sequence[Report], path: Path) -> Path:
    """Write the page to a file, which is replaced whole or not at all; give back its path."""
    write_whole(render(reports), path)
    return path


# ---------------------------------------------------------------------------- templates
class _Templates(jinja2.Environment):
    """Our templates. What they are given is shown as text, whatever it holds."""

    def __init__(self) -> None:
        super().__init__(
            loader=jinja2.PackageLoader("lossproof.show"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.globals |= {
            "verdict": verdict,
            "counts": counts,
            "where": where,
            "excerpt": excerpt,
            "picture": picture,
            "table": table,
            "grouped": grouped,
            "must_be_drawn": must_be_drawn,
            "side_by_side": side_by_side,
        }
        self.filters |= {"prose": prose, "number": number, "words": words}

    def loader_source(self, name: str) -> str:
        """The text of a file beside the templates, as it is."""
        assert self.loader is not None
        return self.loader.get_source(self, name)[0]


@functools.cache
def environment() -> _Templates:
    """The templates, read once."""
    return _Templates()


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) else visible(str(value))


# ---------------------------------------------------------------------------- words
def prose(text: str) -> Markup:
    """A line of text in which what stands between backticks is code."""
    parts = re.split(r"`([^`]+)`", text)
    made = [
        Markup("<code>{}</code>").format(visible(part)) if i % 2 else escape(visible(part))
        for i, part in enumerate(parts)
    ]
    return Markup("").join(made)


def words(name: str) -> str:
    """The name of a piece of evidence as words."""
    return name.replace("_", " ")


def number(value: Number) -> str:
    """A number to six digits; anything else as it is."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def where(place: Location) -> str:
    """File, line and column."""
    column = "" if place.column is None else f":{place.column}"
    return f"{shown_path(place.file)}:{place.line}{column}"


@dataclass(frozen=True)
class Verdict:
    """What a report comes to: a class for the style sheet, a word, and a sentence."""

    kind: str
    word: str
    sentence: str


def verdict(report: Report) -> Verdict:
    """The report in a word and a sentence."""
    if report.not_checked is not None:
        return Verdict("open", "Not checked", report.not_checked)
    rest = (
        f"{len(report.proved)} proved, {len(report.unproved)} could not be decided, "
        f"{len(report.not_applicable)} not applicable"
    )
    for severity, (kind, word) in VERDICTS.items():
        if report.count(severity):
            return Verdict(kind, word, f"{counts(report)}; {rest}")
    if not report.proved:
        return Verdict("open", "Undecided", f"nothing was found, and nothing was proved; {rest}")
    return Verdict("right", "Nothing found", rest)


def counts(report: Report) -> str:
    """How many findings of each severity there are."""
    nouns = {Severity.ERROR: "error", Severity.WARNING: "warning"}
    parts = [
        _counted(report.count(severity), noun)
        for severity, noun in nouns.items()
        if report.count(severity)
    ]
    slow = report.count(Severity.PERFORMANCE)
    parts += [f"{slow} performance"] if slow else []
    return ", ".join(parts) or "no findings"


def _summary(reports: Sequence[Report]) -> str:
    """Several reports, or none, in a sentence."""
    said = [verdict(report).word for report in reports]
    order = ("Wrong", "Doubtful", "Slow", "Undecided", "Not checked", "Nothing found")
    return ", ".join(f"{said.count(word)} {word.lower()}" for word in order if word in said) or (
        "no loss was found"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def grouped(outcomes: Sequence[Outcome]) -> list[tuple[list[Outcome], str]]:
    """Rules that say the same, together."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.detail, []).append(outcome)
    return [(rules, detail) for detail, rules in groups.items()]


# ---------------------------------------------------------------------------- comparisons
def side_by_side(made: Comparison) -> dict[str, Any]:
    """What a template shows of a comparison."""
    head, beyond = comparison.verdict(made)
    return {
        "sides": [comparison.named(side) for side in (made.a, made.b)],
        "names": (made.a.name, made.b.name),
        "inputs": made.inputs,
        "rows": list(comparison.rows(made)),
        "lists": list(comparison.lists(made)),
        "same": made.same,
        "verdict": head + beyond,
    }


# ---------------------------------------------------------------------------- source
def excerpt(place: Location) -> list[Line | None]:
    """The lines to show, the middle of a long span left out (``None``)."""
    lines: list[Line | None] = [*lines_of(place, AROUND)]
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[: MOST_LINES - 4], None, *lines[-3:]]


# ---------------------------------------------------------------------------- charts
def picture(chart: Chart, name: str, *, small: bool = False) -> Markup | None:
    """The chart as SVG; ``None`` where nothing can draw it."""
    if isinstance(chart, Unmeasured) or not plots.can_draw():
        return None
    return Markup(plots.svg(chart, name, small=small))


def must_be_drawn(charts: Sequence[Chart]) -> bool:
    """Whether there are charts that nothing here can draw."""
    return not plots.can_draw() and any(not isinstance(chart, Unmeasured) for chart in charts)


@dataclass(frozen=True)
class Table:
    """The numbers of a chart."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table(chart: LineChart | HeatMap) -> Table:
    """The numbers behind a chart, for those who cannot see it or want to copy them."""
    if isinstance(chart, HeatMap):
        columns = tuple(str(i) for i in range(len(chart.values[0])))
        rows = tuple((str(i), *(_cell(cell) for cell in row)) for i, row in enumerate(chart.values))
        return Table((f"{chart.row_label} \\ {chart.column_label}", *columns), rows)
    found = [dict(zip(series.x, series.y, strict=True)) for series in chart.series]
    places = sorted({x for one in found for x in one})
    rows = tuple(
        (f"{x:.6g}", *(_cell(one[x]) if x in one else "" for one in found)) for x in places
    )
    return Table((chart.x_label, *(series.label for series in chart.series)), rows)


def _cell(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.6g}"
