from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.journal import Journal, work_through


@dataclass(frozen=True)
class Task:
    key: str


def answer(task: Task) -> dict[str, Any]:
    return {"task": task.key, "length": len(task.key)}


def nothing() -> None:
    pass


def test_answers_are_kept_and_survive_a_broken_last_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, "state 1").add({"task": "a", "length": 1})
    with path.open("a") as file:
        file.write('{"task": "b", "len')
    assert Journal(path, "state 1").answers == {"a": {"task": "a", "length": 1}}


def test_answers_of_another_state_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, "state 1").add({"task": "a"})
    assert Journal(path, "state 2").answers == {}
    assert Journal(path, "state 1").answers == {}


def test_fresh_forgets(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, "state 1").add({"task": "a"})
    assert Journal(path, "state 1", fresh=True).answers == {}


def test_what_is_answered_is_not_asked_again_and_the_order_is_the_tasks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "state 1")
    for key in ("b", "a"):
        journal.add({"task": key, "length": 99})
    found = work_through(
        [Task("a"), Task("b")], answer, journal,
        workers=1, prepare=nothing, description="",
    )  # fmt: skip
    assert found == [{"task": "a", "length": 99}, {"task": "b", "length": 99}]
