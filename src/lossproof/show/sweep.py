"""The reports of many losses as text for people, with a line that counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from lossproof.checks.report import Report, Severity
from lossproof.show import terminal
from lossproof.show.source import shown_path, visible
from lossproof.show.terminal import COLOURS, Page


def render(
    reports: Sequence[Report],
    *,
    color: bool = False,
    width: int = 100,
    verbose: bool = False,
    quiet: bool = False,
    remarks: Sequence[str] = (),
) -> str:
    """All findings, then the losses that could not be checked, then one line that counts.

    Args:
        reports: what to show, in this order.
        color: whether to use the colours of a terminal.
        width: where prose is wrapped.
        verbose: show the whole report of every loss.
        quiet: show the findings alone.
        remarks: what else the last line says, such as how many reports were kept from before.
    """
    parts = [
        _report(report, color, width, verbose, quiet)
        for report in reports
        if report.findings or (verbose and report.not_checked is None)
    ]
    if not quiet:
        unchecked = [report for report in reports if report.not_checked is not None]
        parts += _not_checked(unchecked, color, width, verbose)
        parts.append(_summary(reports, color, width, remarks))
    return "\n\n".join(part for part in parts if part)


def _report(report: Report, color: bool, width: int, verbose: bool, quiet: bool) -> str:
    text = terminal.render(
        report, color=color, width=width, verbose=verbose, quiet=quiet or not verbose
    )
    if verbose or quiet or not report.reproduce:
        return text
    page = Page(width, color)
    page.prose(Text.assemble(("reproduce  ", "bold"), visible(report.reproduce)), 11)
    return f"{text}\n\n{page.text()}"


def _not_checked(reports: Iterable[Report], color: bool, width: int, verbose: bool) -> list[str]:
    """One paragraph for each reason, with the losses that share it; its first line says enough."""
    losses: dict[str, list[Report]] = {}
    for report in reports:
        why = report.not_checked or ""
        losses.setdefault(why if verbose else why.partition("\n")[0], []).append(report)
    if not losses:
        return []
    page = Page(width, color)
    for why, alike in losses.items():
        files: dict[str, list[Report]] = {}
        for report in alike:
            files.setdefault("" if report.location is None else report.location.file, []).append(
                report
            )
        names = ", ".join(_named(file, among) for file, among in files.items())
        head = Text("not checked  ", "bold yellow")
        first, *more = why.split("\n")
        page.prose(Text.assemble(head, visible(f"{names}: {first}")), 13)
        for line in more:
            page.line(Text(" " * 13 + visible(line)))
    return [page.text()]


def _named(file: str, reports: Sequence[Report]) -> str:
    """The losses of one file; the file alone where it could not be read as a whole."""
    names = ", ".join(report.subject for report in reports)
    place = reports[0].location
    if place is None or names == shown_path(file):
        return names
    return f"{shown_path(file)}:{place.line}: {names}"


def _summary(reports: Sequence[Report], color: bool, width: int, remarks: Iterable[str]) -> str:
    checked = [report for report in reports if report.not_checked is None]
    found = [report for report in checked if report.findings]
    counts = {severity: sum(report.count(severity) for report in found) for severity in Severity}
    line = Text(f"{_counted(len(checked), 'loss', 'losses')} checked: ")
    if not found:
        line.append("nothing was found", "bold green" if checked else "bold")
    else:
        worst = next(severity for severity in Severity if counts[severity])
        words = (
            _counted(counts[Severity.ERROR], "error"),
            _counted(counts[Severity.WARNING], "warning"),
            *([f"{counts[Severity.PERFORMANCE]} performance"] * bool(counts[Severity.PERFORMANCE])),
        )
        line.append(f"{len(found)} with findings ({', '.join(words)})", COLOURS[worst])
    silenced = sum(len(report.suppressed) for report in checked)
    rest = [f"{silenced} suppressed"] if silenced else []
    rest += [f"{n} not checked"] if (n := len(reports) - len(checked)) else []
    page = Page(width, color)
    page.line(Text.assemble(line, *(f"; {remark}" for remark in (*rest, *remarks))))
    return page.text()


def _counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
