"""What the tests of pages share: a page as a parser reads it, a report with everything in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from lossproof.checks.chart import HeatMap, LineChart, Series, Unmeasured
from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.show.source import visible

VOID = {"meta", "link", "br", "img", "path"}
PASSIVE = {"script", "style"}

CHARTS = (
    LineChart(
        "Value", "p", "loss", (Series("value", (0.0, 0.5, 1.0), (2.0, None, 1.0)),), "It falls."
    ),
    LineChart(
        "Derivative",
        "p",
        "derivative",
        (Series("autograd", (0.0, 1.0), (1.0, 2.0)), Series("dots", (0.5,), (1.5,), "dots")),
    ),
    HeatMap("Map", "i", "j", "difference", ((0.0, 0.25), (None, 1.0)), "One is `nan`."),
    Unmeasured("Accuracy", "one call takes 9 s"),
)


def full_report(place: Location | None = None, **changes: object) -> Report:
    """A report that has something of every kind."""
    fault = Finding(
        "LP206", "gradient-path-missing", Severity.ERROR, "`backward` treats `denom` as a constant",
        place, "missing-path", {"relative_error": 0.123456789, "elements": 4}, ("one note",),
        "add the missing term\ngrad = grad + num\n    return grad",
        () if place is None else (("the gradient is computed here", place),),
    )  # fmt: skip
    doubt = Finding("LP302", "overflow", Severity.WARNING, "`exp` overflows", None)
    outcomes = (
        Outcome("LP101", "non-scalar", Status.PROVED, "one element"),
        Outcome("LP102", "silent-broadcast", Status.PROVED, "one element"),
        Outcome("LP205", "wrong-double-backward", Status.UNPROVED, "no `double` backward"),
        Outcome("LP103", "differs-from-reference", Status.NOT_APPLICABLE, "no reference"),
    )
    report = Report(
        "Dice", place, ("p: float32[8]",), (fault, doubt), outcomes, 7, 0.31, ("`p` is predicted",),
        'lossproof check dice.py:Dice --inputs "float[8]"', charts=CHARTS,
    )  # fmt: skip
    return report.replace(**changes)


class Page(HTMLParser):
    """A page as a list of elements, each with its own attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "path" and not self.get_starttag_text().endswith("/>")):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] == "style":
            self.styles.append(data)
        else:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        """Everything a reader sees."""
        return "".join(self.pieces)

    def tags(self, *names: str) -> list[str]:
        """The elements of these names, in order."""
        return [tag for tag, _ in self.elements if tag in names]

    def values(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs]


def as_prose(text: str) -> str:
    """Text as it is read where backticks become code."""
    return re.sub(r"`([^`]+)`", r"\1", visible(text))
