"""Every format for programs takes any number of reports, and its own reader understands it."""

import json
import xml.etree.ElementTree as ET

import pytest

from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.show.formats import Format, render

FINDING = Finding(
    "LP201", "graph-cut", Severity.ERROR, "no gradient", Location("/p/losses.py", 3, 5)
)
REPORTS = [
    Report("a", None, (), (FINDING,), (), 0, 0.1),
    Report("b", None, (), (), (Outcome("LP101", "non-scalar", Status.PROVED),), 0, 0.1),
    Report("c", Location("/p/losses.py", 9), (), (), (), 0, 0.0, not_checked="no such module"),
]
PROGRAMS = [form for form in Format if form is not Format.FULL]


@pytest.mark.parametrize("form", PROGRAMS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_reports(form, count):
    text = render(REPORTS[:count], form)
    if count == 3:
        assert "no gradient" in text
        assert "no such module" in text, "what was not checked must be said"


def test_json_is_a_list():
    data = json.loads(render(REPORTS, Format.JSON))
    assert [one["subject"] for one in data] == ["a", "b", "c"]
    assert [one["ok"] for one in data] == [False, True, False]
    assert data[2]["not_checked"] == "no such module"
    assert json.loads(render([], Format.JSON)) == []


def test_concise_is_one_line_for_each():
    assert render(REPORTS, Format.CONCISE).split("\n") == [
        "/p/losses.py:3:5: LP201 graph-cut: no gradient",
        "/p/losses.py:9: not checked: no such module",
    ]


def test_junit_is_xml_and_sarif_is_json():
    assert len(ET.fromstring(render(REPORTS, Format.JUNIT)).findall("testsuite")) == 3
    assert json.loads(render(REPORTS, Format.SARIF))["version"] == "2.1.0"


def test_the_format_for_people_is_drawn_elsewhere():
    with pytest.raises(ValueError, match="no format for programs"):
        render(REPORTS, Format.FULL)
