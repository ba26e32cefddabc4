"""The report: plain data that survives the way through JSON, and says what it holds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.errors import FindingsError, LossproofError

words = st.text(max_size=20)
numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
locations = st.builds(
    Location, words, st.integers(1, 999), st.none() | st.integers(1, 99),
    st.none() | st.integers(1, 999), st.none() | st.integers(1, 99), st.none() | words,
    st.none() | words,
)  # fmt: skip
findings = st.builds(
    Finding, words, words, st.sampled_from(Severity), words, st.none() | locations,
    st.none() | words, st.dictionaries(words, numbers, max_size=3), st.tuples(words, words),
    st.none() | words, st.lists(st.tuples(words, locations), max_size=2).map(tuple),
)  # fmt: skip
outcomes = st.builds(Outcome, words, words, st.sampled_from(Status), words)
reports = st.builds(
    Report, words, st.none() | locations, st.lists(words, max_size=3).map(tuple),
    st.lists(findings, max_size=3).map(tuple), st.lists(outcomes, max_size=4).map(tuple),
    st.integers(0, 99), st.floats(0, 1e3), st.lists(words, max_size=2).map(tuple),
    st.none() | words,
)  # fmt: skip


@given(reports)
def test_a_report_survives_json(report):
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert again.to_dict() == report.to_dict()


@given(reports)
def test_a_report_is_true_if_and_only_if_nothing_was_found(report):
    assert bool(report) is report.ok is (len(list(report)) == 0)
    assert sum(report.count(severity) for severity in Severity) == len(report.findings)
    sorted_out = (*report.proved, *report.unproved, *report.not_applicable)
    assert sorted(map(id, sorted_out)) == sorted(map(id, report.outcomes))


def finding(severity=Severity.WARNING):
    return Finding("LP201", "graph-cut", severity, "`item` cuts the graph")


def report(*found):
    return Report("loss", None, ("input: float32[3]",), found, (), 0, 0.1)


def test_raising_for_findings():
    report().raise_for_findings()
    with pytest.raises(FindingsError, match="`item` cuts the graph") as caught:
        report(finding()).raise_for_findings()
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, LossproofError)


def test_reports_compare_and_change_as_values():
    assert report(finding()) == report(finding())
    assert report(finding()) != report(finding(Severity.ERROR))
    assert report().replace(seed=5).seed == 5


def test_a_location_looks_its_line_up_and_reads_as_text():
    place = Location.at(__file__, 1)
    assert place.source.startswith('"""The report')
    assert str(place) == f"{__file__}:1"
    assert str(Location("a.py", 3, 7)) == "a.py:3:7"
    assert Location.at(__file__, 10_000).source is None
    assert Location.at("nowhere.py", 1).source is None
