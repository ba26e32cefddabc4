"""One line per finding, in the form that editors read."""

from lossproof.checks.report import Finding, Location, Report, Severity
from lossproof.show.concise import render


def shown(*findings):
    return render(Report("Dice", None, (), findings, (), 0, 0.3))


def finding(location, message="it is wrong"):
    return Finding("LP206", "gradient-path-missing", Severity.ERROR, message, location)


def test_one_line_per_finding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = Location(str(tmp_path / "dice.py"), 9, 17, 9, 20)
    without_column = Location("/elsewhere/dice.py", 3)
    assert shown(finding(inside), finding(without_column), finding(None, "two\n lines")) == (
        "dice.py:9:17: LP206 gradient-path-missing: it is wrong\n"
        "/elsewhere/dice.py:3: LP206 gradient-path-missing: it is wrong\n"
        "Dice: LP206 gradient-path-missing: two lines"
    )


def test_nothing_found_is_nothing_said():
    assert shown() == ""
