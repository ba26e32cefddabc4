"""LP001: a comment that silences nothing is found, and one that may be needed is left alone."""

import pytest

import lossproof

PAIR = ("float[4]", "float[4]")


@pytest.fixture
def check(module_of):
    def check(source, name="loss", **options):
        return lossproof.check(getattr(module_of(source), name), *PAIR, **options)

    return check


CUT = "def loss(p, t):{head}\n    return ((p - t).detach() ** 2).mean(){line}\n"
RIGHT = "def loss(p, t):{head}\n    return ((p - t) ** 2).mean(){line}\n"


def with_comment(source, line="", head=""):
    return source.format(
        line=f"  # lossproof: {line}" if line else "", head=f"  # lossproof: {head}" if head else ""
    )


@pytest.mark.parametrize(
    ("line", "head"),
    [
        ("ignore[LP201]", ""),
        ("ignore[graph-cut]", ""),
        ("ignore", ""),
        ("ignore[LP102, LP2]", ""),
        ("", "ignore[LP201]"),
        ("", "ignore"),
    ],
)
def test_a_needed_comment_silences(check, line, head):
    report = check(with_comment(CUT, line, head))
    assert [finding.code for finding in report.suppressed] == ["LP201"]
    assert report.ok
    assert "1 suppressed" in str(report)
    (outcome,) = (outcome for outcome in report.proved if outcome.code == "LP001")
    assert "every one of 1 comments" in outcome.detail


def test_a_comment_that_silences_nothing(check):
    report = check(with_comment(RIGHT, "ignore[LP201]"))
    (finding,) = report.findings
    assert (finding.code, finding.cause) == ("LP001", "silences-nothing")
    assert (finding.location.line, finding.location.column) == (2, 35)
    assert not report.suppressed


def test_the_comment_for_another_rule_is_unused_and_silences_nothing(check):
    report = check(with_comment(CUT, "ignore[LP102]"))
    assert {finding.code for finding in report} == {"LP201", "LP001"}


def test_a_rule_that_does_not_exist(check):
    report = check(with_comment(CUT, "ignore[LP201, LP999]"))
    (finding,) = report.findings
    assert finding.cause == "unknown-rule"
    assert "`LP999`" in finding.message
    assert len(report.suppressed) == 1


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("ignore[LP302]", {"select": ["LP2", "LP001"]}),  # was not run
        ("ignore", {"ignore": ["LP302"]}),  # one of those it covers was not run
    ],
)
def test_what_was_not_run_is_no_verdict(check, line, options):
    report = check(with_comment(RIGHT, line), **options)
    assert report.ok
    assert [outcome.code for outcome in report.unproved if outcome.code == "LP001"] == ["LP001"]


def test_after_a_crash_nothing_is_unused(check):
    report = check("def loss(p, t):  # lossproof: ignore[LP201]\n    return p.nothing()\n")
    assert [finding.code for finding in report] == ["LP408"]


def test_a_comment_outside_the_loss_is_somebody_elses(check):
    source = with_comment(RIGHT) + "\ndef other(p, t):\n    return p  # lossproof: ignore[LP101]\n"
    report = check(source)
    assert report.ok
    assert "LP001" in {outcome.code for outcome in report.not_applicable}


def test_it_can_be_silenced_itself(check):
    report = check(with_comment(RIGHT, "ignore[LP201]", "ignore[LP001]"))
    assert report.ok
    assert [finding.code for finding in report.suppressed] == ["LP001"]


def test_the_page_is_true(page_code, module_of):
    namespace = {}
    for section, findings in (("Example", ["LP001"]), ("Use instead", [])):
        module = module_of(page_code("LP001", section), f"page_{len(namespace)}")
        namespace[section] = module
        report = lossproof.check(module.mse, *PAIR)
        assert [finding.code for finding in report] == findings
