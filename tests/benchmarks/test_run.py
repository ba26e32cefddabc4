"""A study from its cases to its results: what is measured, resumed, left out, refused and said."""

import importlib
import sys

import pytest
from benchmarks.harness import results
from benchmarks.harness.journal import Journal
from benchmarks.harness.process import ready, tried
from benchmarks.harness.run import Run, failures
from benchmarks.harness.study import MEMORY, TIMES, Address, Case, Kind, Method, Study

SOURCE = """
import os

from benchmarks.harness.study import TIMES, Case, Kind, LeftOut, Method, Step, Study


def make(case, method):
    import torch

    if method.name == "refuses":
        raise LeftOut("has no masks")
    if method.name == "raises":
        raise RuntimeError("no kernel\\nand more lines")
    if method.name == "dies":
        os._exit(7)
    if method.name == "hangs":
        import time

        time.sleep(600)
    x = torch.ones(case["n"], requires_grad=True)

    def clear():
        x.grad = None

    step = Step(
        {"forward": lambda: None, "backward": lambda: (x * 2).sum().backward()},
        before=clear,
        facts=lambda: {"threads": torch.get_num_threads(), "kept": os.environ["A_SETTING"]},
    )
    return step


STUDY = Study(
    name="small", title="Small", asks="does it run?", takes="seconds",
    cases=(
        Case("one", {"n": 2**20}, ("plain",)),
        Case("two", {"n": 1}, ("other", "dies"), (TIMES,)),
        Case("three", {"n": 1}, ("refuses", "raises")),
    ),
    methods=(
        Method("plain", Kind.plain),
        Method("other", environment={"A_SETTING": "of the method"}),
        Method("refuses"), Method("raises"), Method("dies"),
    ),
    make=make, baseline="plain", rounds=2, environment={"A_SETTING": "of the study"},
)
HANGS = Study(
    name="hangs", title="Hangs", asks="does it end?", takes="seconds",
    cases=(Case("one", {"n": 1}, (), (TIMES,)),),
    methods=(Method("hangs"),), make=make, baseline="hangs", patience=0.5,
)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "a_small_study.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "a_small_study", raising=False)
    return importlib.import_module("a_small_study")


def test_a_whole_run_in_processes_of_their_own(module, tmp_path):
    planned = Run(module.STUDY)
    planned.cases = planned.cases[:2]
    data = planned.done(Journal(tmp_path / "journal.jsonl", planned.state))
    one, two = (case["methods"] for case in data["cases"])
    assert list(one) == ["plain"]
    assert list(two) == ["other", "dies"]
    assert two["dies"] == {"failed": "its process ended with status 7"}
    plain = one["plain"]
    assert plain["rounds"] == 2
    assert set(plain["processor_ms"]) == {"forward", "backward", "step"}
    assert plain["ratio"]["step"]["median"] == 1.0
    assert plain["left_mb"] == 4.0
    assert plain["live_mb"] >= 4.0
    assert plain["facts"] == {"threads": 1, "kept": "of the study"}
    assert two["other"]["facts"]["kept"] == "of the method"
    assert failures(data) == []  # the one that failed is a peer


def test_what_a_method_says_or_raises_is_its_answer(module):
    address = Address("a_small_study", "small", "three", "refuses")
    assert tried(ready, address) == ("has no masks", True)
    address = Address("a_small_study", "small", "three", "raises")
    assert tried(ready, address) == ("RuntimeError: no kernel", False)


def test_a_method_that_never_answers_has_failed(module):
    study = module.HANGS
    (task,) = Run(study).tasks()
    found = Run(study).measured(task, lambda words: None)
    assert found["methods"]["hangs"] == {"failed": "no answer within 0.5 s"}


def unused(case, method):
    raise AssertionError("nothing is made in this process")


def study(**changes):
    given = {
        "name": "some", "title": "Some", "asks": "what?", "takes": "no time",
        "cases": (Case("a"), Case("b"), Case("c", {}, ("ours",), (TIMES,))),
        "methods": (Method("plain", Kind.plain), Method("ours", Kind.ours)),
        "make": unused, "baseline": "plain",
    }  # fmt: skip
    return Study(**(given | changes))


class Scripted(Run):
    """A run whose measuring is written down, and is interrupted at one task."""

    def __init__(self, *given, stop=None, **options):
        super().__init__(*given, **options)
        self.log, self.stop = [], stop

    def measured(self, task, seen):
        if task.key == self.stop:
            raise KeyboardInterrupt
        self.log.append(task.key)
        return {"methods": {m.name: {task.measure: len(self.log)} for m in task.methods}}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "journal.jsonl"
    first = Scripted(study(), stop="memory | b | plain")
    with pytest.raises(SystemExit):
        first.done(Journal(path, first.state))
    assert first.log == [
        "times | a | all", "memory | a | plain", "memory | a | ours", "times | b | all",
    ]  # fmt: skip
    second = Scripted(study())
    data = second.done(Journal(path, second.state))
    assert second.log == ["memory | b | plain", "memory | b | ours", "times | c | all"]
    assert [case["case"] for case in data["cases"]] == ["a", "b", "c"]
    assert data["cases"][0]["methods"]["ours"] == {TIMES: 1, MEMORY: 3}
    assert data["cases"][1]["methods"]["ours"] == {TIMES: 4, MEMORY: 2}
    assert data["cases"][2]["methods"] == {"ours": {TIMES: 3}}


def test_figures_of_two_states_of_the_source_do_not_mix(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    first = Scripted(study(), stop="times | c | all")
    with pytest.raises(SystemExit):
        first.done(Journal(path, first.state))
    monkeypatch.setattr(results, "source_digest", lambda: "another")
    second = Scripted(study())
    second.done(Journal(path, second.state))
    assert len(second.log) == 7
    with pytest.raises(SystemExit, match="changed during the run"):
        results.refuse_if_changed("the first")


def test_fewer_rounds_and_other_peers_are_another_state():
    assert Run(study()).state == Run(study()).state
    assert Run(study(), rounds=3).state != Run(study()).state
    absent = (*study().methods, Method("theirs", needs=("a-distribution-that-is-nowhere",)))
    assert Run(study(methods=absent)).state != Run(study()).state


def test_what_is_not_installed_is_named_and_left_out():
    theirs = Method("theirs", needs=("torch", "a-distribution-that-is-nowhere"))
    planned = Run(study(methods=(*study().methods, theirs)))
    assert planned.absent == ["a-distribution-that-is-nowhere"]
    assert set(planned.versions) == {"torch"}
    assert not planned.complete
    assert all(theirs not in task.methods for task in planned.tasks())
    assert Run(study()).complete


def test_a_part_is_not_complete():
    assert [case.name for case in Run(study(), only="b").cases] == ["b"]
    assert not Run(study(), only="b").complete
    assert not Run(study(), rounds=3).complete


def test_what_does_not_fit_is_not_run_and_said():
    planned = Run(study(estimate=lambda case, method: 3 * 2**30), limit=2**30)
    times, memory, *_ = planned.tasks()
    words = "needs about 3 GB, and may take 1 GB"
    for task in (times, memory):
        found = planned.measured(task, lambda seen: None)["methods"]
        assert all(entry == {"not_run": words} for entry in found.values())


def test_processes_that_do_not_fit_together_are_not_kept(monkeypatch):
    kept = []

    def in_turns(starts, *, keep, **options):
        kept.append(keep)
        return {}

    monkeypatch.setattr("benchmarks.harness.run.in_turns", in_turns)
    for limit in (3, 2):
        planned = Run(study(estimate=lambda case, method: 2 if method.name == "ours" else 1),
                      limit=limit)  # fmt: skip
        planned.measured(next(planned.tasks()), lambda seen: None)
    assert kept == [True, False]


def test_floors_have_no_memory():
    floor = Method("floor", Kind.floor)
    planned = Run(study(methods=(*study().methods, floor)))
    assert all(floor not in task.methods for task in planned.tasks() if task.measure == MEMORY)
    assert any(floor in task.methods for task in planned.tasks() if task.measure == TIMES)


def test_a_failure_of_ours_is_one_of_the_study():
    data = {
        "kinds": {"ours": "ours", "theirs": "peer"},
        "cases": [{"case": "a", "methods": {"ours": {"failed": "no"}, "theirs": {"failed": "no"}}}],
    }
    assert failures(data) == ["a: ours: no"]


def test_a_study_with_two_cases_of_one_name_is_refused():
    with pytest.raises(ValueError, match="one name"):
        study(cases=(Case("a"), Case("a")))
    with pytest.raises(ValueError, match="no method"):
        study(baseline="eager")
    with pytest.raises(ValueError, match="no method"):
        study(cases=(Case("a", methods=("eager",)),))
