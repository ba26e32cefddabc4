"""Reports as SARIF 2.1.0, the format in which code hosts and editors take findings.

SARIF is the *Static Analysis Results Interchange Format* (OASIS standard, 2020). One log holds one
run; a rule's page is its description, a finding is a result. What was proved, or not, has no place
in the format: results are findings.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lossproof
from lossproof.checks.report import Finding, Location, Report, Severity
from lossproof.checks.rules import RULES, Rule
from lossproof.show import json

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
HOMEPAGE = "https://github.com/lossproof/lossproof"
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.PERFORMANCE: "note"}
ROOT = "SRCROOT"


def render(reports: Sequence[Report]) -> str:
    """The findings of all reports as one SARIF log.

    Files inside the current folder are named relative to it (``uriBaseId`` ``SRCROOT``), so that a
    code host finds them in its checkout.
    """
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(reports)]}
    return json.written(log)


def _run(reports: Sequence[Report]) -> dict[str, Any]:
    found = {finding.code for report in reports for finding in report}
    rules = [rule for rule in RULES.values() if rule.code in found]
    index = {rule.code: number for number, rule in enumerate(rules)}
    return {
        "tool": {
            "driver": {
                "name": "lossproof",
                "version": lossproof.__version__,
                "informationUri": HOMEPAGE,
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {ROOT: {"uri": Path.cwd().as_uri() + "/"}},
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    _not_checked(report) for report in reports if report.not_checked is not None
                ],
            }
        ],
        "results": [_result(report, finding, index) for report in reports for finding in report],
    }


def _not_checked(report: Report) -> dict[str, Any]:
    """Why a loss has no verdict."""
    said: dict[str, Any] = {
        "level": "warning",
        "message": {"text": f"`{report.subject}` was not checked: {report.not_checked}"},
    }
    if report.location is not None:
        said["locations"] = [_location(report.location, report.subject)]
    return said


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": _section(rule.page, "What it does") or rule.summary},
        "help": {"text": rule.page, "markdown": rule.page},
        "properties": {"tags": ["correctness", "pytorch", rule.name]},
    }


def _section(page: str, title: str) -> str:
    """The text of one section of a rule's page, as one paragraph."""
    after = page.partition(f"## {title}\n")[2]
    return " ".join(after.partition("\n## ")[0].split())


def _result(report: Report, finding: Finding, index: Mapping[str, int]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": LEVELS[finding.severity],
        "message": {"text": _message(finding)},
        "partialFingerprints": {"lossproof/v1": _fingerprint(report, finding)},
        "properties": _properties(report, finding),
    }
    if finding.location is not None:
        result["locations"] = [_location(finding.location, report.subject)]
    if finding.related:
        result["relatedLocations"] = [
            {"id": number, "message": {"text": word}, **_location(place, report.subject)}
            for number, (word, place) in enumerate(finding.related, 1)
        ]
    return result


def _message(finding: Finding) -> str:
    lines = [finding.message, *finding.notes]
    if finding.help:
        lines.append(f"help: {finding.help}")
    return "\n".join(lines)


def _properties(report: Report, finding: Finding) -> dict[str, Any]:
    known: dict[str, Any] = {
        "loss": report.subject,
        "cause": finding.cause,
        "evidence": dict(finding.evidence),
        "inputs": list(report.inputs),
        "seed": report.seed,
        "reproduce": report.reproduce,
    }
    return {name: value for name, value in known.items() if value not in (None, {}, [])}


def _location(place: Location, subject: str) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(place.file), "region": _region(place)}
    return {
        "physicalLocation": physical,
        "logicalLocations": [{"fullyQualifiedName": place.function or subject}],
    }


def _artifact(file: str) -> dict[str, str]:
    path = os.path.relpath(file) if os.path.isabs(file) and _inside(file) else file
    if os.path.isabs(path):
        return {"uri": Path(path).as_uri()}
    return {"uri": _quoted(path.replace(os.sep, "/")), "uriBaseId": ROOT}


def _inside(file: str) -> bool:
    return Path(file).is_relative_to(Path.cwd())


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path.encode(errors="surrogateescape"))


def _region(place: Location) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": place.line}
    if place.column is not None:
        region["startColumn"] = place.column
    if place.end_line is not None:
        region["endLine"] = place.end_line
    if place.end_column is not None:
        region["endColumn"] = place.end_column
    if place.source is not None:
        region["snippet"] = {"text": place.source}
    return region


def _fingerprint(report: Report, finding: Finding) -> str:
    """The same for the same fault after lines above it have moved."""
    source = finding.location.source if finding.location is not None else None
    parts = (finding.code, report.subject, finding.cause, " ".join((source or "").split()))
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="replace")).hexdigest()[:32]
