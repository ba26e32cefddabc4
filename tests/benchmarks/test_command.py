"""``python -m benchmarks``: what it lists, runs, saves and refuses to save."""

import json

import pytest
from benchmarks.harness import results
from benchmarks.harness.run import Run
from benchmarks.harness.study import TIMES, Case, Kind, Method, Study

from benchmarks import __main__ as program
from benchmarks import studies


def unused(case, method):
    raise AssertionError("nothing is made in this process")


STUDY = Study(
    name="two_methods", title="Two methods", asks="which is faster?", takes="no time",
    cases=(Case("a", measures=(TIMES,)), Case("b", measures=(TIMES,))),
    methods=(Method("plain", Kind.plain), Method("ours", Kind.ours)),
    make=unused, baseline="plain",
)  # fmt: skip


def answer(**changes):
    return {"processor_ms": {"step": {"median": 1.0, "quartiles": [1.0, 1.0]}}} | changes


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Run the command with some arguments, on answers that are given."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(studies, "measured", lambda: {STUDY.name: STUDY})

    def call(*arguments, **ours):
        def measured(self, task, seen):
            return {"methods": {"plain": answer(), "ours": ours or answer()}}

        monkeypatch.setattr(Run, "measured", measured)
        with pytest.raises(SystemExit) as ended:
            program.main([STUDY.name, *arguments])
        return ended.value.code

    call.results = tmp_path / "results" / "two_methods.json"
    call.page = tmp_path / "pages" / "two_methods.md"
    return call


def test_a_whole_run_writes_results_and_page(called):
    assert called() == 0
    saved = json.loads(called.results.read_text())
    assert [case["case"] for case in saved["cases"]] == ["a", "b"]
    assert saved["machine"]["source"] == results.source_digest()
    assert called.page.read_text().startswith("# Two methods\n\nwhich is faster?\n")


@pytest.mark.parametrize("part", [("--only", "a"), ("--rounds", "3")])
def test_a_part_is_shown_and_not_saved(called, part, capsys):
    assert called(*part) == 0
    assert "| ours |" in capsys.readouterr().out
    assert not called.results.exists()
    assert called(*part, "--save") == 0
    assert called.results.exists()


def test_nothing_is_saved_if_ours_has_failed(called, capsys):
    assert called("--save", failed="ValueError: no") == 1
    assert "a: ours: ValueError: no" in capsys.readouterr().err
    assert not called.results.exists()


def test_nothing_is_saved_if_the_source_has_changed(called, monkeypatch):
    digests = iter(["before"] * 3)
    monkeypatch.setattr(results, "source_digest", lambda: next(digests, "after"))
    assert "changed during the run" in str(called())
    assert not called.results.exists()


def test_all_studies_are_listed(capsys, monkeypatch):
    monkeypatch.setattr(studies, "measured", lambda: {STUDY.name: STUDY})
    program.main([])
    listed = capsys.readouterr().out
    assert "two_methods" in listed
    assert all(command.name in listed for command in studies.COMMANDS)


def test_an_unknown_study_is_said_to_be_unknown(capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(["nothing"])
    assert ended.value.code == 2
    assert "there is no study `nothing`" in capsys.readouterr().err


@pytest.mark.parametrize("command", studies.COMMANDS, ids=lambda command: command.name)
def test_every_command_is_there(command):
    assert callable(command.main())


def test_the_study_of_the_readme_can_be_made():
    text = (results.ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    (source,) = [block for block in text.split("```python\n")[1:] if "def make(" in block]
    names = {"__name__": "a_study"}
    exec(source.partition("```")[0], names)
    study, make = names["STUDY"], names["make"]
    eager, ours, floor, *_ = study.methods
    rows = study.cases[0]
    for method in (eager, ours):
        step = make(rows, method)
        step.take()
        assert step.facts()["value"] > 0
    make(rows, floor)()
    assert study.estimate(rows, eager) == 1000 * 128 * 4 * 6
