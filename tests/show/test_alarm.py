"""The layout of an alarm as people read it."""

import dataclasses

import pytest

from lossproof.checks.report import Finding, Location, Severity
from lossproof.show.alarm import render_alarm
from lossproof.watcher.alarm import Alarm, AlarmKind, Diagnosis, StepFigures

SOURCE = """\
def terms_of(out, target):
    p = torch.sigmoid(out)
    return {"bce": -torch.log(p).mean()}
"""
HISTORY = (
    StepFigures(10, {"l2": 0.5, "bce": 0.31}, 1.25, {"bce": 1.0}),
    StepFigures(11, {"l2": 0.25, "bce": 7.0}, 1e9, {}),
    StepFigures(12, {"l2": 0.25, "bce": float("inf")}, None, {}),
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(SOURCE)
    return Location.at(str(path), 3, 21, 3, 33, "terms_of")


def alarm(**changes):
    standard = Alarm(12, AlarmKind.NON_FINITE_LOSS, "`bce` is inf", "bce")
    return dataclasses.replace(standard, **changes)


def test_an_alarm_with_all_its_parts(place):
    found = Diagnosis(
        "loss",
        "forward",
        "log",
        place,
        "torch.log(p)",
        (17,),
        notes=("`log` of 0 is -inf, for sample 17 of 64",),
        help="use `torch.nn.functional.logsigmoid(x)`",
        caveat="`x` was written to",
    )
    text = render_alarm(alarm(diagnosis=found, history=HISTORY, help="stop here"))
    assert text == (
        """\
alarm[non-finite-loss] step 12: `bce` is inf
 --> train.py:3:21  in terms_of
3 |     return {"bce": -torch.log(p).mean()}
  |                     ^^^^^^^^^^^^
  = `log` of 0 is -inf, for sample 17 of 64
  = not certain: `x` was written to
  = what led to it:
    step   bce    l2  gradient  gradient of bce
      10  0.31   0.5      1.25                1
      11     7  0.25     1e+09                -
      12   inf  0.25         -                -
  = help: use `torch.nn.functional.logsigmoid(x)`
  = help: stop here"""
    )


def test_without_a_diagnosis():
    assert render_alarm(alarm()) == "alarm[non-finite-loss] step 12: `bce` is inf"
    assert str(alarm()) == render_alarm(alarm())


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("data", "it came with the batch"),
        ("parameters", "it came from the parameters"),
        ("model", "it was made in the model"),
        ("between", "it was made between the model and the loss"),
    ],
)
def test_where_there_is_no_line_the_part_is_said(part, words):
    assert f"= {words}\n" in render_alarm(alarm(diagnosis=Diagnosis(part, notes=("more",))))


def test_findings_are_shown_as_a_check_shows_them(place):
    finding = Finding(
        "LP202", "wrong-backward", Severity.ERROR, "the 1/N is missing", place, help="divide"
    )
    found = Diagnosis("loss", "backward", location=place, findings=(finding,))
    text = render_alarm(alarm(kind=AlarmKind.WRONG_BACKWARD, diagnosis=found))
    first, _, rest = text.partition("\n\n")
    assert first == "alarm[wrong-backward] step 12: `bce` is inf"
    assert rest.startswith("error[LP202] wrong-backward: the 1/N is missing\n --> train.py:3:21")
    assert text.count("train.py:3") == 1


def test_many_terms_do_not_push_the_one_in_question_out():
    values = {f"term{number}": 1.0 for number in range(9)}
    shown = render_alarm(alarm(term="term8", history=(StepFigures(3, values),)))
    header = next(line for line in shown.splitlines() if "step " in line and "term" in line)
    assert header.split()[:3] == ["step", "term8", "term0"]
    assert len(header.split()) == 7


def test_colours_are_on_request(place):
    found = Diagnosis("loss", location=place)
    assert "\x1b[" in render_alarm(alarm(diagnosis=found), color=True)
    assert "\x1b[" not in render_alarm(alarm(diagnosis=found, history=HISTORY))


def test_what_could_act_on_a_terminal_is_spelt_out():
    text = render_alarm(
        alarm(
            message="`\x1b[2J` is nan",
            diagnosis=Diagnosis(notes=("\x1b[31m",), caveat="\x07"),
            history=(StepFigures(1, {"\x1b]0;": 1.0}),),
        )
    )
    assert "\x1b" not in text
    assert "\x07" not in text
