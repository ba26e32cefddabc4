"""JUnit XML, read by a third party's reader."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.show.junit import render

junitparser = pytest.importorskip("junitparser")


def read(text):
    return junitparser.JUnitXml.fromstring(text.encode("utf-8"))


def test_one_suite_per_loss_and_one_case_per_rule(dice_report):
    document = read(render([dice_report, dice_report]))
    assert (document.tests, document.failures, document.skipped) == (10, 4, 2)
    suite = next(iter(document))
    assert suite.name == "dice"
    cases = {case.name: case for case in suite}
    assert list(cases) == [
        "LP101 non-scalar",
        "LP103 differs-from-reference",
        "LP206 gradient-path-missing",
        "LP404 nondeterministic",
        "LP501 python-loop",
    ]
    (failure,) = cases["LP206 gradient-path-missing"].result
    assert failure.type == "error"
    assert failure.message == "`backward` treats `denom` as a constant"
    assert "relative_error: 0.3" in failure.text
    (skipped,) = cases["LP103 differs-from-reference"].result
    assert "no reference" in skipped.message
    assert cases["LP101 non-scalar"].is_passed
    assert cases["LP501 python-loop"].is_passed


def test_what_reproduces_it_is_a_property(dice_report):
    suite = next(iter(read(render([dice_report]))))
    properties = {(p.name, p.value) for p in suite.properties()}
    assert ("seed", "7") in properties
    assert ("input", "p: float32[4]") in properties


@settings(max_examples=40)
@given(data=st.data())
def test_any_report_can_be_read(any_reports, data):
    reports = data.draw(any_reports)
    text = render(reports).encode(errors="replace").decode()
    suites = list(read(text))
    assert len(suites) == len(reports)
    for suite, report in zip(suites, reports, strict=True):
        codes = {verdict.code for verdict in (*report.findings, *report.outcomes)}
        assert suite.tests == len(codes) == len(list(suite))
