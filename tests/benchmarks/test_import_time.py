"""The study of import times: what it asks, and what it makes of the answers."""

import pytest
from benchmarks.import_time import ADDED, ALONE, BOTH, TORCH, Question, found, in_turns, page
from benchmarks.import_time import questions as asked_of_all

import lossproof

MACHINE = (
    "date", "processor", "cores", "threads", "system", "python", "torch", "lossproof", "source",
)  # fmt: skip


def answer(milliseconds):
    return {"wall_ms": milliseconds, "processor_ms": milliseconds / 2, "modules": 3}


def test_a_process_is_asked_for_what_the_second_statement_alone_takes():
    one = Question("sleep", "time.sleep(0.02)", "import time; time.sleep(0.5)").ask()
    assert 20 <= one["wall_ms"] < 500
    assert one["processor_ms"] < one["wall_ms"]
    assert one["modules"] == 0
    assert Question("one", "import this_is_loaded as x", LOADED).ask()["modules"] == 1


LOADED = """
import sys, types, importlib.abc, importlib.machinery
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == "this_is_loaded":
            return importlib.machinery.ModuleSpec(name, self)
    def exec_module(self, module): pass
sys.meta_path.insert(0, Finder())
"""


def test_every_public_name_is_asked_for():
    names = [name for one in asked_of_all() for name in one.name.split(", ")]
    assert set(lossproof.__all__) <= set(names)
    assert len(names) == len(set(names)) == len(lossproof.__all__) + 4


def test_the_questions_take_turns(capsys):
    order = []

    class Asked(Question):
        def ask(self):
            order.append(self.name)
            return answer(1.0)

    answers = in_turns([Asked("a", ""), Asked("b", "")], 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(given) for name, given in answers.items()} == {"a": 3, "b": 3}


def test_the_difference_is_taken_round_by_round():
    answers = {
        TORCH: [answer(1000.0), answer(3000.0), answer(1000.0)],
        BOTH: [answer(1001.0), answer(3002.0), answer(1003.0)],
    }
    told = found(answers)
    assert told["difference"]["wall_ms"]["median"] == pytest.approx(2.0)
    assert told["difference"]["processor_ms"]["median"] == pytest.approx(1.0)
    assert told[TORCH]["wall_ms"]["median"] == 1000.0


def test_the_page_shows_the_aim():
    answers = {one.name: [answer(5.0), answer(6.0), answer(7.0)] for one in asked_of_all()}
    data = {"machine": dict.fromkeys(MACHINE), "rounds": 3, "figures": found(answers)}
    text = "\n\n".join(page(data))
    assert "| `import lossproof` after `import torch` | 6.00 (5.00 - 7.00) |" in text
    assert "| 3 | 50 |" in text
    assert "| `chunk` | 6.00 (5.00 - 7.00) | 3.00 (2.50 - 3.50) | 3 |" in text
    assert set(data["figures"]) > {TORCH, BOTH, ALONE, ADDED}
