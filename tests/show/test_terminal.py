"""The layout of a report as people read it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.show.terminal import render

SOURCE = """\
class Dice(Function):
    def forward(ctx, p, t):
        denom = p.pow(2).sum() + t.pow(2).sum() + 1.0
        return 1 - num / denom

    def backward(ctx, g):
        return g * (
            -2 * t
            / denom
        ), None
"""


@pytest.fixture
def dice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "dice.py"
    path.write_text(SOURCE)
    return str(path)


def report(*findings, outcomes=(), **changes):
    standard = Report("Dice", None, (), findings, tuple(outcomes), 0, 0.31)
    return standard.replace(**changes)


def finding(location=None, message="it is wrong", severity=Severity.ERROR, **parts):
    return Finding("LP206", "gradient-path-missing", severity, message, location, **parts)


def drawn(*findings, **options):
    return render(report(*findings), quiet=True, **options)


def test_a_finding_with_all_its_parts(dice):
    fault = finding(
        Location.at(dice, 3, 9, 3, 54, "Dice.forward"),
        "`backward` treats `denom` as a constant",
        notes=("it returns -0.02 where the derivative is -0.01", "4 of 4 directions agree"),
        help="add the missing term\n+ num * 2 * p / denom ** 2",
        related=(("the gradient is computed here", Location.at(dice, 7, 9, 10, 16)),),
    )
    assert (
        drawn(fault)
        == """\
error[LP206] gradient-path-missing: `backward` treats `denom` as a constant
  --> dice.py:3:9  in Dice.forward
 3 |         denom = p.pow(2).sum() + t.pow(2).sum() + 1.0
   |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   = it returns -0.02 where the derivative is -0.01
   = 4 of 4 directions agree
  ::: dice.py:7:9  the gradient is computed here
 7 | /         return g * (
 8 | |             -2 * t
 9 | |             / denom
10 | |         ), None
   | |_______________-
   = help: add the missing term
           + num * 2 * p / denom ** 2"""
    )


def test_a_part_of_a_line_is_underlined(dice):
    assert (
        drawn(finding(Location.at(dice, 3, 17, 3, 31)))
        == """\
error[LP206] gradient-path-missing: it is wrong
 --> dice.py:3:17
3 |         denom = p.pow(2).sum() + t.pow(2).sum() + 1.0
  |                 ^^^^^^^^^^^^^^"""
    )


def test_without_columns_the_stripped_line_is_underlined(dice):
    assert (
        drawn(finding(Location.at(dice, 4, function="Dice.forward")))
        == """\
error[LP206] gradient-path-missing: it is wrong
 --> dice.py:4  in Dice.forward
4 |         return 1 - num / denom
  |         ^^^^^^^^^^^^^^^^^^^^^^"""
    )


def test_the_middle_of_a_long_span_is_left_out(tmp_path):
    path = tmp_path / "long.py"
    path.write_text("".join(f"line_{n}(\n" for n in range(1, 21)))
    code = drawn(finding(Location.at(str(path), 1, 1, 20, 9))).split("\n")[2:]
    assert [re.match(r" ?(\d*|\.+) +\| [/|]", line)[1] for line in code] == [
        *"1234", "...", "20", "",
    ]  # fmt: skip
    assert code[-2:] == ["20 | | line_20(", "   | |________^"]


def test_evidence_stands_in_for_notes():
    numbers = {"relative_error": 0.123456789, "directions": 4, "kind": "sign"}
    assert drawn(finding(evidence=numbers)).endswith(
        "\n  = relative error 0.123457, directions 4, kind sign"
    )
    assert "relative error" not in drawn(finding(evidence=numbers, notes=("in words",)))


def test_without_a_source_the_place_is_named_alone():
    place = Location("<generated>", 3, 5, 3, 8)
    assert drawn(finding(place)).split("\n")[1:] == [" --> <generated>:3:5"]


def test_the_remembered_line_is_shown_where_the_file_has_changed(dice):
    place = Location(dice, 3, 1, 4, 5, source="old = code")
    assert drawn(finding(place)).split("\n")[2:] == ["3 | old = code", "  | ^^^^^^^^^^"]


def test_a_path_outside_the_current_folder_stays_whole(dice, tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert f" --> {dice}:4" in drawn(finding(Location.at(dice, 4)))


def test_wide_letters_and_tabs_are_underlined_where_they_stand(tmp_path):
    path = tmp_path / "wide.py"
    path.write_text("\t损失 = f(宽, x)\n", encoding="utf-8")
    code, marks = drawn(finding(Location.at(str(path), 1, 7, 1, 14))).split("\n")[2:]
    assert code == "1 |     损失 = f(宽, x)"
    start, end = marks.index("^"), len(marks)
    assert cell_len(code.partition("f(")[0]) == start
    assert cell_len(code) == end


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path):
    path = tmp_path / "markup.py"
    path.write_text("x = '[red]:smile:[/red]'\n")
    fault = finding(Location.at(str(path), 1), "[bold]b[/bold]", notes=("[/]",), help="[i]\n[j]")
    for color in (False, True):
        text = plain(drawn(fault, color=color))
        for words in ("x = '[red]:smile:[/red]'", "[bold]b[/bold]", "= [/]", "help: [i]", "[j]"):
            assert words in text


def test_characters_that_act_on_a_terminal_are_spelt_out(tmp_path):
    path = tmp_path / "hostile.py"
    path.write_text("x = '\x1b[2J\u202e\x07'\n", encoding="utf-8")
    text = drawn(finding(Location.at(str(path), 1, 5, 1, 11), "a\nb\x1b[31m"))
    assert r"x = '\x1b[2J\u202e\x07'" in text
    assert r": a\nb\x1b[31m" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)


def test_prose_is_wrapped_and_code_is_not(tmp_path):
    path = tmp_path / "long.py"
    line = "value = " + " + ".join("abcdefgh" for _ in range(20))
    path.write_text(line + "\n")
    words = " ".join(["word"] * 40)
    fault = finding(Location.at(str(path), 1), words, notes=(words,), help=f"{words}\n{line}")
    lines = drawn(fault, width=60).split("\n")
    assert f"1 | {line}" in lines
    prose = [text for text in lines if "word" in text]
    assert len(prose) > 9
    assert all(len(text) <= 60 for text in prose)
    assert sum(text.count("word") for text in prose) == 120
    assert [text for text in prose if text.startswith("    word")]  # a note's second line


def verdict(name, status, detail=""):
    return Outcome("LP999", name, status, detail)


OUTCOMES = [
    verdict("wrong-backward", Status.PROVED, "to 1e-7"),
    verdict("graph-cut", Status.PROVED),
    verdict("flat-loss", Status.PROVED),
    verdict("half-precision", Status.UNPROVED, "no float64 twin"),
    verdict("function-misuse", Status.NOT_APPLICABLE, "it is a function"),
]


def test_a_clean_report_says_what_was_proved_and_how_far():
    clean = report(
        outcomes=OUTCOMES,
        inputs=("p: float32[8]", "t: float32[8]"),
        assumptions=("`p` is the prediction",),
        reproduce="lossproof check dice.py:Dice",
    )
    assert (
        render(clean)
        == """\
checked   Dice with p: float32[8]; t: float32[8]
assumed   `p` is the prediction
proved    wrong-backward: to 1e-7
          graph-cut, flat-loss
unproved  half-precision: no float64 twin
0 errors, 0 warnings, 1 unproved in 0.3 s"""
    )


def test_beside_a_finding_the_limits_of_the_rest_wait_for_verbose():
    faulty = report(finding(), outcomes=OUTCOMES, reproduce="lossproof check dice.py:Dice")
    text = render(faulty)
    assert "proved     wrong-backward, graph-cut, flat-loss\n" in text
    assert "reproduce  lossproof check dice.py:Dice\n" in text
    assert "function-misuse" not in text
    assert "proved          wrong-backward: to 1e-7\n" in render(faulty, verbose=True)
    assert "not applicable  function-misuse: it is a function\n" in render(faulty, verbose=True)


def test_quiet_shows_findings_alone():
    assert render(report(outcomes=OUTCOMES), quiet=True) == ""
    assert "proved" not in render(report(finding(), outcomes=OUTCOMES), quiet=True)


@pytest.mark.parametrize(
    ("severities", "summary"),
    [
        ("", "0 errors, 0 warnings, 0 unproved in 0.3 s"),
        ("e", "1 error, 0 warnings, 0 unproved in 0.3 s"),
        ("eww", "1 error, 2 warnings, 0 unproved in 0.3 s"),
        ("p", "0 errors, 0 warnings, 1 performance, 0 unproved in 0.3 s"),
    ],
)
def test_the_last_line_counts(severities, summary):
    kinds = {"e": Severity.ERROR, "w": Severity.WARNING, "p": Severity.PERFORMANCE}
    faults = [finding(severity=kinds[letter]) for letter in severities]
    assert render(report(*faults)).split("\n")[-1] == summary


def plain(text):
    return Text.from_ansi(text).plain


@pytest.mark.parametrize("force", ["FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"])
def test_colour_adds_nothing_but_colour(dice, monkeypatch, force):
    monkeypatch.setenv(force, "1")
    fault = finding(Location.at(dice, 3, 9, 3, 54), help="do\nthis", notes=("note",))
    faulty = report(fault, outcomes=OUTCOMES)
    assert "\x1b" not in render(faulty)
    if force != "NO_COLOR":
        assert "\x1b[1;31merror[LP206]" in render(faulty, color=True)
    assert plain(render(faulty, color=True)) == render(faulty)


def test_code_keeps_the_terminals_own_colour(dice):
    lines = drawn(finding(Location.at(dice, 4)), color=True).split("\n")
    assert lines[2] == "\x1b[1;34m4 | \x1b[0m        return 1 - num / denom"
    assert lines[3] == "\x1b[1;34m  | \x1b[0m        \x1b[1;31m^^^^^^^^^^^^^^^^^^^^^^\x1b[0m"


@given(st.text(), st.text(), st.integers(20, 200), st.booleans())
def test_any_text_can_be_shown(message, source, width, color):
    place = Location("nowhere.py", 1, 1, 1, 5, source=source.replace("\n", " "))
    fault = finding(place, message, notes=(message,), help=message, evidence={})
    text = render(report(fault, subject=message), width=width, color=color)
    text.encode()
    assert text.isprintable() or "\n" in text


def test_str_of_a_report_is_its_plain_text():
    assert str(report(finding())) == render(report(finding()))
