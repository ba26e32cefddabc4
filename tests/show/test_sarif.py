"""SARIF, read by a third party's model of the format."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.show.sarif import render

sarif_pydantic = pytest.importorskip("sarif_pydantic")


def read(text):
    return sarif_pydantic.Sarif.model_validate(json.loads(text)).runs[0]


def test_a_finding_with_all_it_says(dice_report):
    run = read(render([dice_report]))
    assert [rule.id for rule in run.tool.driver.rules] == ["LP206", "LP404", "LP501"]
    assert [result.level.value for result in run.results] == ["error", "warning", "note"]
    first = run.results[0]
    assert "treats `denom` as a constant" in first.message.text
    assert "help: add" in first.message.text
    physical = first.locations[0].physical_location
    assert physical.artifact_location.uri == "my%20losses.py"
    assert physical.artifact_location.uri_base_id == "SRCROOT"
    region = physical.region
    assert (region.start_line, region.start_column, region.end_column) == (2, 5, 30)
    assert region.snippet.text == "    denom = p.sum() + t.sum()"


def test_the_page_of_a_rule_is_its_description(dice_report):
    log = json.loads(render([dice_report]))
    rule = log["runs"][0]["tool"]["driver"]["rules"][0]
    assert "## What it does" in rule["help"]["markdown"]
    assert rule["fullDescription"]["text"] in " ".join(rule["help"]["text"].split())


def test_evidence_is_kept_and_finite(dice_report):
    log = json.loads(render([dice_report]), parse_constant=pytest.fail)
    properties = log["runs"][0]["results"][0]["properties"]
    assert properties["evidence"] == {"relative_error": 0.3, "worst": "inf"}
    assert properties["seed"] == 7


def test_the_fingerprint_survives_a_move(dice_report):
    from dataclasses import replace

    def fingerprint(report):
        return json.loads(render([report]))["runs"][0]["results"][0]["partialFingerprints"]

    first = dice_report.findings[0]
    moved = replace(first, location=replace(first.location, line=40, end_line=40))
    other = replace(first, cause="another")
    assert fingerprint(dice_report.replace(findings=(moved,))) == fingerprint(dice_report)
    assert fingerprint(dice_report.replace(findings=(other,))) != fingerprint(dice_report)


def test_nothing_found_is_an_empty_run():
    run = json.loads(render([]))["runs"][0]
    assert run["results"] == []


@settings(max_examples=40)
@given(data=st.data())
def test_any_report_is_valid(any_reports, data):
    reports = data.draw(any_reports)
    run = read(render(reports).encode(errors="replace").decode())
    assert len(run.results) == sum(len(report.findings) for report in reports)
    known = [rule.id for rule in run.tool.driver.rules or []]
    for result in run.results:
        assert known[result.rule_index] == result.rule_id
