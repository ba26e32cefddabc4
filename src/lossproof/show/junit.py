"""Reports as JUnit XML, which continuous integration servers show as test results.

One suite per loss, one case per rule: a finding of severity error or warning fails its case, what
could not be decided is skipped with the reason, and a matter of speed passes with its text beside
it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from lossproof.checks.report import Finding, Outcome, Report, Severity, Status

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold, not even escaped."""


def render(reports: Sequence[Report]) -> str:
    """One document with a suite for each report."""
    root = ET.Element("testsuites", name="lossproof")
    suites = [_suite(report) for report in reports]
    root.extend(suites)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("time", f"{sum(report.seconds for report in reports):.3f}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode")


def _suite(report: Report) -> ET.Element:
    cases = _cases(report)
    suite = ET.Element(
        "testsuite",
        name=_text(report.subject),
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors="0",
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time=f"{report.seconds:.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    known = {"seed": str(report.seed), "reproduce": report.reproduce}
    for name, value in (*known.items(), *(("input", text) for text in report.inputs)):
        if value is not None:
            ET.SubElement(properties, "property", name=name, value=_text(value))
    suite.extend(cases)
    return suite


def _cases(report: Report) -> list[ET.Element]:
    """One case per rule: of its findings if it has any, else of its outcomes.

    A loss that could not be checked has one case, which is skipped with the reason.
    """
    if report.not_checked is not None:
        case = ET.Element("testcase", classname=_text(report.subject), name="check", time="0.000")
        ET.SubElement(case, "skipped", message=_text(f"not checked: {report.not_checked}"))
        return [case]
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.code, []).append(finding)
    said: dict[str, list[Outcome]] = {}
    for outcome in report.outcomes:
        if outcome.code not in found:
            said.setdefault(outcome.code, []).append(outcome)
    cases = {code: _failed(report, findings) for code, findings in found.items()}
    cases |= {code: _passed(report, outcomes) for code, outcomes in said.items()}
    return [cases[code] for code in sorted(cases)]


def _case(report: Report, verdict: Finding | Outcome) -> ET.Element:
    return ET.Element(
        "testcase",
        classname=_text(report.subject),
        name=f"{verdict.code} {verdict.name}",
        time="0.000",
    )


def _failed(report: Report, findings: Sequence[Finding]) -> ET.Element:
    case = _case(report, findings[0])
    place = findings[0].location
    if place is not None:
        case.set("file", _text(place.file))
        case.set("line", str(place.line))
    for finding in findings:
        if finding.severity is Severity.PERFORMANCE:
            ET.SubElement(case, "system-out").text = _text(_details(finding))
        else:
            kind = finding.severity.value
            failure = ET.SubElement(case, "failure", message=_text(finding.message), type=kind)
            failure.text = _text(_details(finding))
    return case


def _details(finding: Finding) -> str:
    lines = [finding.message]
    if finding.location is not None:
        lines.append(f"--> {finding.location}")
        lines.append(f"    {(finding.location.source or '').strip()}")
    lines += [f"{name}: {number}" for name, number in finding.evidence.items()]
    lines += finding.notes
    if finding.help:
        lines.append(f"help: {finding.help}")
    return "\n".join(lines)


def _passed(report: Report, outcomes: Sequence[Outcome]) -> ET.Element:
    case = _case(report, outcomes[0])
    undecided = [outcome for outcome in outcomes if outcome.status is not Status.PROVED]
    if undecided:
        reasons = "; ".join(f"{outcome.status.value}: {outcome.detail}" for outcome in undecided)
        ET.SubElement(case, "skipped", message=_text(reasons))
    return case


def _text(text: str) -> str:
    """The text with what XML cannot hold spelt out."""
    return NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
