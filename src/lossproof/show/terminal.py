"""A report as text for people, in the layout of the Rust compiler's diagnostics."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from lossproof.checks.report import Finding, Location, Number, Outcome, Report, Severity
from lossproof.show.source import Line, lines_of, shown_path, visible

COLOURS = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.PERFORMANCE: "bold magenta",
}
GUTTER = "bold blue"
MOST_LINES = 6
"""Of a longer span only the beginning and the end are shown."""
NOT_APPLICABLE = "not applicable"


def render(
    report: Report,
    *,
    color: bool = False,
    width: int = 100,
    verbose: bool = False,
    quiet: bool = False,
) -> str:
    """The whole report.

    Args:
        report: what to show.
        color: whether to use the colours of a terminal. Plain text says the same.
        width: where prose is wrapped. Code is never wrapped.
        verbose: show to which limit each rule was proved also where there are findings, and which
            rules do not apply.
        quiet: show the findings alone.
    """
    page = Page(width, color)
    for finding in report.findings:
        draw_finding(page, finding)
        page.blank()
    if not quiet:
        _draw_verdicts(page, report, verbose)
        page.line(_summary(report))
    return page.text()


class Page:
    """Collects lines; wraps prose and leaves code alone."""

    def __init__(self, width: int, color: bool) -> None:
        self.width = width
        self.buffer = io.StringIO()
        self.console = Console(
            file=self.buffer,
            width=width,
            force_terminal=color,
            color_system="standard" if color else None,
            no_color=not color,
            legacy_windows=False,
        )

    def line(self, text: Text) -> None:
        """A line as it is, however long."""
        text.rstrip()
        self.console.print(text, soft_wrap=True)

    def prose(self, text: Text, hanging: int) -> None:
        """A paragraph whose lines after the first are indented by ``hanging``."""
        room = max(self.width - hanging, 20)
        first, *rest = text.wrap(self.console, room + hanging) or [Text()]
        self.line(first)
        if rest:
            following = text[len(first.plain) :]
            following = following[len(following.plain) - len(following.plain.lstrip()) :]
            for part in following.wrap(self.console, room):
                self.line(Text.assemble(" " * hanging, part))

    def ready(self, text: str) -> None:
        """Lines that are drawn already."""
        self.buffer.write(f"{text}\n")

    def blank(self) -> None:
        self.console.print()

    def text(self) -> str:
        return self.buffer.getvalue().rstrip("\n")


class Drawing:
    """Draws places in the source, notes and mends.

    Args:
        page: where to draw.
        colour: of what is at fault.
        largest_line: the largest line number that will be shown.
    """

    def __init__(self, page: Page, colour: str, largest_line: int) -> None:
        self.page = page
        self.colour = colour
        self.numbers = len(str(largest_line))

    def draw_title(self, head: str, name: str, message: str) -> None:
        """The first line: what kind of thing it is, its name, and what is wrong."""
        title = Text.assemble(
            Text(head, self.colour), (f" {name}: ", "bold"), (visible(message), "bold")
        )
        self.page.prose(title, hanging=4)

    def draw_culprit(self, place: Location) -> None:
        """The line at fault, underlined."""
        self.draw_place(place, "-->", self._function(place))
        self._draw_code(place, self.colour, "^")

    def draw_related(self, place: Location, why: str) -> None:
        """Another line that matters."""
        self.draw_place(place, ":::", why)
        self._draw_code(place, GUTTER, "-")

    def draw_place(self, place: Location, arrow: str, remark: str) -> None:
        """File, line and column."""
        where = f"{shown_path(place.file)}:{place.line}"
        where += "" if place.column is None else f":{place.column}"
        lead = Text.assemble(" " * self.numbers, (arrow, GUTTER), " ")
        self.page.line(Text.assemble(lead, where, f"  {visible(remark)}" if remark else ""))

    @staticmethod
    def _function(place: Location) -> str:
        named = place.function is not None and place.function != "<module>"
        return f"in {place.function}" if named else ""

    def _draw_code(self, place: Location, colour: str, mark: str) -> None:
        lines = lines_of(place)
        if len(lines) == 1:
            self._draw_line(lines[0], colour, mark)
        elif lines:
            self._draw_lines(lines, colour, mark)

    def _draw_line(self, line: Line, colour: str, mark: str) -> None:
        self.page.line(self._gutter(line.number).append(line.before + line.culprit + line.after))
        marks = mark * max(cell_len(line.culprit), 1)
        self.page.line(self._gutter().append(" " * cell_len(line.before)).append(marks, colour))

    def _draw_lines(self, lines: list[Line], colour: str, mark: str) -> None:
        """A span over several lines: a bar beside them, and a mark under its end."""
        shown = lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 2], lines[-1]]
        for position, line in enumerate(shown):
            if position and line.number > shown[position - 1].number + 1:
                self.page.line(self._gutter(dots=True).append("|", colour))
            bar = "/ " if position == 0 else "| "
            code = line.before + line.culprit + line.after
            self.page.line(self._gutter(line.number).append(bar, colour).append(code))
        end = cell_len(shown[-1].before + shown[-1].culprit)
        self.page.line(self._gutter().append("|" + "_" * max(end, 1) + mark, colour))

    def _gutter(self, number: int | None = None, dots: bool = False) -> Text:
        label = "." * min(3, self.numbers + 1) if dots else str(number or "")
        return Text.assemble((f"{label:>{self.numbers}} | ", GUTTER))

    def draw_note(self, note: str) -> None:
        """A fact, in words."""
        lead = Text.assemble(" " * self.numbers, (" = ", GUTTER))
        self.page.prose(lead + Text(visible(note)), len(lead))

    def draw_help(self, text: str) -> None:
        """The mend: the first line is prose, what follows is code."""
        first, *code = text.strip("\n").split("\n")
        lead = Text.assemble(" " * self.numbers, (" = ", GUTTER), ("help: ", "bold cyan"))
        self.page.prose(lead + Text(visible(first)), len(lead))
        for line in code:
            self.page.line(Text(" " * len(lead) + visible(line), "cyan"))


def draw_finding(page: Page, finding: Finding) -> None:
    """One finding."""
    drawing = Drawing(page, COLOURS[finding.severity], _largest_line(finding))
    drawing.draw_title(f"{finding.severity.value}[{finding.code}]", finding.name, finding.message)
    if finding.location is not None:
        drawing.draw_culprit(finding.location)
    for note in finding.notes or _evidence(finding):
        drawing.draw_note(note)
    for why, place in finding.related:
        drawing.draw_related(place, why)
    if finding.help is not None:
        drawing.draw_help(finding.help)


def _largest_line(finding: Finding) -> int:
    places = [place for place in (finding.location, *(p for _, p in finding.related)) if place]
    return max((place.end_line or place.line for place in places), default=1)


def _evidence(finding: Finding) -> Iterator[str]:
    """The numbers in words, for a finding that has no words of its own."""
    if finding.evidence:
        yield ", ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in finding.evidence.items())


def _number(value: Number) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _draw_verdicts(page: Page, report: Report, verbose: bool) -> None:
    rows = [("checked", "bold", _checked(report))]
    rows += [("assumed", "bold", Text(visible(line))) for line in report.assumptions]
    proved = _outcomes(report.proved) if report.ok or verbose else _names(report.proved)
    rows += [("proved", "bold green", line) for line in proved]
    rows += [("unproved", "bold yellow", line) for line in _outcomes(report.unproved)]
    if verbose:
        rows += [(NOT_APPLICABLE, "bold", line) for line in _outcomes(report.not_applicable)]
    if report.findings and report.reproduce:
        rows.append(("reproduce", "bold", Text(visible(report.reproduce))))
    width = max(len(label) for label, _, _ in rows) + 2
    before = ""
    for label, style, line in rows:
        head = Text(f"{'' if label == before else label:<{width}}", style, end="")
        page.prose(Text.assemble(head, line), width)
        before = label


def _checked(report: Report) -> Text:
    inputs = "; ".join(report.inputs)
    return Text(visible(f"{report.subject} with {inputs}" if inputs else report.subject))


def _names(outcomes: Iterable[Outcome]) -> Iterator[Text]:
    """The rules alone, for a report in which something else matters more."""
    if names := ", ".join(outcome.name for outcome in outcomes):
        yield Text(names)


def _outcomes(outcomes: Iterable[Outcome]) -> Iterator[Text]:
    """One line per outcome; rules that say the same share it."""
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        names.setdefault(outcome.detail, []).append(outcome.name)
    for detail, rules in names.items():
        line = Text(", ".join(rules))
        yield line.append(f": {visible(detail)}", "dim") if detail else line


def _summary(report: Report) -> Text:
    errors, warnings = report.count(Severity.ERROR), report.count(Severity.WARNING)
    performance = report.count(Severity.PERFORMANCE)
    parts = [_counted(errors, "error"), _counted(warnings, "warning")]
    parts += [f"{performance} performance"] if performance else []
    parts += [f"{len(report.unproved)} unproved"]
    parts += [f"{len(report.suppressed)} suppressed"] if report.suppressed else []
    worst = min(COLOURS, key=lambda s: (not report.count(s), list(COLOURS).index(s)))
    style = "bold green" if report.ok else COLOURS[worst]
    return Text.assemble((", ".join(parts), style), f" in {report.seconds:.1f} s")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
