"""The formats that reports are written in, by name."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossproof.checks.report import Report


class Format(str, enum.Enum):
    """How reports are written."""

    FULL = "full"
    CONCISE = "concise"
    JSON = "json"
    GITHUB = "github"
    JUNIT = "junit"
    SARIF = "sarif"


def render(reports: Sequence[Report], form: Format) -> str:
    """Reports in a format for programs; ``full``, which is for people, has more to be told.

    JSON is a list with an object for each report.
    """
    if form is Format.CONCISE:
        from lossproof.show import concise

        return "\n".join(text for report in reports if (text := concise.render(report)))
    if form is Format.JSON:
        from lossproof.show import json

        return json.render_all(reports)
    if form is Format.GITHUB:
        from lossproof.show import github

        return github.render(reports)
    if form is Format.JUNIT:
        from lossproof.show import junit

        return junit.render(reports)
    if form is Format.SARIF:
        from lossproof.show import sarif

        return sarif.render(reports)
    raise ValueError(f"`{form.value}` is no format for programs")
