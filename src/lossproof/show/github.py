"""Reports as workflow commands of GitHub Actions, which show findings beside the changed lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lossproof.checks.report import Finding, Report, Severity
from lossproof.show.source import shown_path, visible

COMMANDS = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.PERFORMANCE: "notice",
}


def render(reports: Sequence[Report]) -> str:
    """One command ``::error title=...,file=...,line=...::message`` per finding.

    A loss that could not be checked is a warning with the reason.
    """
    lines = [_command(report, finding) for report in reports for finding in report]
    return "\n".join(lines + [_not_checked(report) for report in reports if report.not_checked])


def _not_checked(report: Report) -> str:
    properties = {"title": "not checked"}
    if report.location is not None:
        properties["file"] = shown_path(report.location.file)
        properties["line"] = str(report.location.line)
    return f"::warning {_written(properties)}::{_data(f'{report.subject}: {report.not_checked}')}"


def _command(report: Report, finding: Finding) -> str:
    properties = {"title": f"{finding.code} {finding.name}"}
    place = finding.location
    if place is not None:
        properties["file"] = shown_path(place.file)
        properties["line"] = str(place.line)
        if place.end_line is not None:
            properties["endLine"] = str(place.end_line)
        # GitHub takes columns only where the span is one line.
        if place.end_line in (None, place.line) and place.column is not None:
            properties["col"] = str(place.column)
            if place.end_column is not None:
                properties["endColumn"] = str(place.end_column)
    command, message = COMMANDS[finding.severity], _data(_message(report, finding))
    return f"::{command} {_written(properties)}::{message}"


def _written(properties: Mapping[str, str]) -> str:
    return ",".join(f"{name}={_property(value)}" for name, value in properties.items())


def _message(report: Report, finding: Finding) -> str:
    lines = [f"{finding.message} (in {report.subject})", *finding.notes]
    if finding.help:
        lines.append(f"help: {finding.help}")
    return "\n".join(lines)


def _data(text: str) -> str:
    """Escaped as the runner's toolkit does it; other control characters are spelt out."""
    lines = "\n".join(visible(line) for line in text.split("\n"))
    return lines.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
