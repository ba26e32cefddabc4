"""Workflow commands, read as GitHub's runner reads them."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.show.github import render

COMMAND = re.compile(r"^::(error|warning|notice) ([^\n]*?)::([^\r\n]*)$")


def unescaped(text):
    for character, code in (":", "%3A"), (",", "%2C"), ("\n", "%0A"), ("\r", "%0D"), ("%", "%25"):
        text = text.replace(code, character)
    return text


def read(line):
    kind, properties, message = COMMAND.match(line).groups()
    pairs = (pair.partition("=") for pair in properties.split(","))
    return kind, {name: unescaped(value) for name, _, value in pairs}, unescaped(message)


def test_one_command_per_finding(dice_report):
    error, warning, notice = map(read, render([dice_report]).split("\n"))
    assert error[0] == "error"
    assert error[1] == {
        "title": "LP206 gradient-path-missing", "file": "my losses.py",
        "line": "2", "endLine": "2", "col": "5", "endColumn": "30",
    }  # fmt: skip
    assert error[2].split("\n")[0] == "`backward` treats `denom` as a constant (in dice)"
    assert error[2].endswith("to the gradient")
    assert warning[0] == "warning"
    assert warning[2].startswith("100 % random: two values")
    assert (notice[0], notice[1]["line"]) == ("notice", "7")


@settings(max_examples=50)
@given(data=st.data())
def test_every_command_is_one_line_that_can_be_read(any_reports, data):
    reports = data.draw(any_reports)
    findings = [finding for report in reports for finding in report]
    lines = render(reports).split("\n") if findings else []
    assert len(lines) == len(findings)
    for line, finding in zip(lines, findings, strict=True):
        _, properties, _ = read(line)
        assert properties["title"] == f"{finding.code} {finding.name}"


def test_nothing_found_is_nothing_said(dice_report):
    assert render([dice_report.replace(findings=())]) == ""
