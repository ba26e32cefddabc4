"""A report as one line per finding, for editors and ``grep``."""

from __future__ import annotations

from lossproof.checks.report import Finding, Location, Report
from lossproof.show.source import shown_path, visible


def render(report: Report) -> str:
    """One line ``file:line:column: CODE name: message`` per finding; nothing if there is none.

    A finding without a place begins with the name of the loss instead. A loss that could not be
    checked has one line that says why.
    """
    if report.not_checked is not None:
        why = report.not_checked.partition("\n")[0]
        return visible(f"{_place(report, report.location)}: not checked: {why}")
    return "\n".join(_line(report, finding) for finding in report.findings)


def _line(report: Report, finding: Finding) -> str:
    message = " ".join(finding.message.split())
    return visible(f"{_place(report, finding.location)}: {finding.code} {finding.name}: {message}")


def _place(report: Report, place: Location | None) -> str:
    if place is None:
        return report.subject
    column = "" if place.column is None else f":{place.column}"
    return f"{shown_path(place.file)}:{place.line}{column}"
