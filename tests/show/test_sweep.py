"""Many reports as text: the findings, what was not checked and why, and a line that counts."""

import pytest

from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.show.sweep import render


def report(name, *findings, **changes):
    proved = (Outcome("LP101", "non-scalar", Status.PROVED, "one element"),)
    made = Report(name, None, ("x: float32[3]",), findings, proved, 0, 0.1)
    return made.replace(reproduce=f"lossproof check a.py:{name}", **changes)


def unchecked(name, why, file="a.py", line=3):
    place = Location(file, line)
    return Report(name, place, (), (), (), 0, 0.0, not_checked=why)


def finding(severity=Severity.ERROR):
    return Finding("LP201", "graph-cut", severity, "no gradient reaches `x`")


def test_nothing_was_found():
    assert render([report("a"), report("b")], remarks=["1.2 s"]) == (
        "2 losses checked: nothing was found; 1.2 s"
    )


def test_findings_come_with_the_command_that_repeats_them():
    text = render([report("a"), report("b", finding(), finding(Severity.WARNING))])
    assert text.startswith("error[LP201] graph-cut: no gradient reaches `x`\n\nwarning[LP201]")
    assert "reproduce  lossproof check a.py:b\n" in text
    assert "a.py:a" not in text
    assert text.endswith("2 losses checked: 1 with findings (1 error, 1 warning)")


def test_matters_of_speed_are_counted_apart():
    text = render([report("a", finding(Severity.PERFORMANCE))])
    assert text.endswith("1 loss checked: 1 with findings (0 errors, 0 warnings, 1 performance)")


def test_losses_that_share_a_reason_are_named_together():
    why = "`a.py` line 1 needs the module `x`, which is not here"
    text = render([unchecked("f", why), report("a"), unchecked("g", why, line=9)])
    assert text.split("\n") == [
        f"not checked  a.py:3: f, g: {why}",
        "",
        "1 loss checked: nothing was found; 2 not checked",
    ]


def test_files_that_share_a_reason_are_named_together():
    text = render([unchecked("f", "why", "a.py", 1), unchecked("g", "why", "b.py", 2)])
    assert text.startswith("not checked  a.py:1: f, b.py:2: g: why\n")


def test_of_a_long_reason_the_first_line_is_enough():
    reports = [unchecked("f", "no inputs fit\n  tried: this"), unchecked("g", "no inputs fit")]
    assert render(reports).startswith("not checked  a.py:3: f, g: no inputs fit\n\n")
    assert "\n               tried: this\n" in render(reports, verbose=True)


def test_a_file_that_could_not_be_read_is_named_once():
    text = render([unchecked("bad.py", "line 1 is not valid Python", "bad.py", 1)])
    assert text.startswith("not checked  bad.py: line 1 is not valid Python\n")


def test_suppressed_findings_are_counted():
    text = render([report("a", suppressed=(finding(), finding()))])
    assert text == "1 loss checked: nothing was found; 2 suppressed"


def test_quiet_is_the_findings_alone():
    assert render([report("a"), unchecked("f", "why")], quiet=True) == ""
    assert render([report("a", finding())], quiet=True) == (
        "error[LP201] graph-cut: no gradient reaches `x`"
    )


def test_verbose_is_everything():
    text = render([report("a"), report("b", finding())], verbose=True)
    assert text.count("with x: float32[3]") == 2
    assert "non-scalar: one element" in text


@pytest.mark.parametrize("reports", [[report("a", finding())], [unchecked("f", "why")]])
def test_colours_only_where_they_are_wanted(reports):
    assert "\x1b" not in render(reports)
    assert "\x1b" in render(reports, color=True)


def test_what_would_act_on_a_terminal_is_spelt_out():
    text = render([unchecked("f\x1b[31m", "no\x07", "a\x1b.py")])
    assert "\x1b" not in text
    assert "\x07" not in text
