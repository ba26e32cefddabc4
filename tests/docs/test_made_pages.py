"""The pages that are made from the code and from results are those that are committed."""

import ast
import re

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("grimp")

from docs.making import benchmarks, commands, gallery, integrations, losses, rules, terms
from docs.making.bars import Bar, amounts, picture, shares

from docs import build
from lossproof.checks.rules import RULES
from lossproof.cli import app
from lossproof.losses.catalogue import catalogue

IMPORTED = re.compile(r"^from (lossproof\.integrations\.\w+) import ([\w, ]+)$", re.MULTILINE)
PARTS = {part.__name__.rpartition(".")[2]: part for part in build.MADE}


@pytest.mark.parametrize("name", PARTS)
def test_the_committed_pages_are_up_to_date(name):
    for file, text in PARTS[name].pages().items():
        assert file.read_text(encoding="utf-8") == text, (
            f"{file.name}: run `python docs/build.py --text`"
        )


def test_no_page_is_left_of_what_is_gone():
    made = {file: "" for part in (losses, terms, rules) for file in part.pages()}
    assert list(build.gone(made)) == []
    del made[rules.FOLDER / "LP203.md"]
    assert list(build.gone(made)) == [rules.FOLDER / "LP203.md"]


def test_every_loss_has_a_picture_of_its_value_and_of_its_derivative():
    for entry in catalogue():
        assert losses.pictures_of(entry) == [f"{entry.name}-0.svg", f"{entry.name}-1.svg"]
    text = (gallery.FILE).read_text(encoding="utf-8")
    assert text.count("<img ") == 2 * len(catalogue())


def test_a_rule_has_the_page_that_explain_shows():
    text = rules.page(RULES["LP203"])
    assert text.startswith("# LP203 grad-output-ignored\n\nA factor in front of the loss")
    index = rules.index()
    assert all(f"[`{code}`]({code}.md)" in index for code in RULES)


def test_the_page_of_the_command_line_has_every_command_and_option():
    (text,) = commands.pages().values()
    for command in app.registered_commands:
        assert f"\n## `lossproof {command.callback.__name__}`\n" in text
    rows = {line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `-")}
    assert "| `--jobs`, `-j` `JOBS`" in rows
    assert any(row.startswith("| `--output-format` `full` or `concise` or ") for row in rows)
    assert "lossproof compare [OPTIONS] TARGET TARGET\n" in text
    assert "lossproof explain [CODE]\n" in text


def test_the_index_of_the_benchmarks_tells_of_every_page():
    assert list(benchmarks.untold()) == []
    told = {name for names in benchmarks.GROUPS.values() for name in names}
    assert told == set(benchmarks.TOLD)


def test_the_index_of_the_benchmarks_says_what_the_results_say():
    figures = {"cases": 4, "right": {"with_false_alarm": 1}, "alone": {"found": 2, "gradcheck": 0}}
    sentence, drawn = benchmarks.mistakes({"figures": {**figures, "reference": {"found": 3}}})
    assert sentence.startswith("Of 4 losses with a mistake as people make it, 2 are found without")
    assert "gradcheck: 0 of 4" in drawn


def test_the_random_calls_are_told_by_what_came_of_them():
    surface = {"calls": 10, "kinds": {"returned": 7, "refused": 3}, "faults": ["one"]}
    sentence, drawn = benchmarks.fuzz({"surfaces": [surface, surface]})
    assert sentence.startswith("Of 20 random calls 14 return, 6 are refused in words")
    assert "returned: 14 of 20" in drawn


def test_bars_are_as_long_as_their_figures():
    drawn = picture([Bar("a & b", 1.0, "2 s", ours=True), Bar("c", 0.5, "1 s"), Bar("d", 0, "0")])
    widths = [float(part.partition('"')[0]) for part in drawn.split(' width="')[2:]]
    assert widths == [250.0, 125.0, 1.5]
    assert "a &amp; b: 2 s" in drawn
    assert "1 of 4" in shares([("lossproof", 1, 4)])
    assert 'width="250.0"' in amounts([("x", 3.0), ("y", 1.0)], " s")


def test_what_the_pages_of_the_integrations_import_is_in_the_reference():
    shown = integrations.FILE.read_text(encoding="utf-8")
    used = {
        f"{module}.{name}"
        for page in (integrations.FILE.parents[1] / "integrations").glob("*.md")
        for module, names in IMPORTED.findall(page.read_text(encoding="utf-8"))
        for name in re.findall(r"\w+", names)
    }
    assert used
    assert [name for name in sorted(used) if f"::: {name}\n" not in shown] == []


def test_a_module_offers_what_it_says():
    assert integrations.public(ast.parse("__all__ = ['b', 'a']\ndef c(): ...")) == ["a", "b"]
    assert integrations.public(ast.parse("def c(): ...")) == []


def test_a_study_of_import_times_and_one_of_the_guard_are_told():
    def took(milliseconds):
        return {"wall_ms": {"median": milliseconds}}

    times = {"torch": took(1000.0), "lossproof": took(2.4), "lossproof alone": took(3.0)}
    sentence, drawn = benchmarks.import_time({"figures": times})
    assert sentence.startswith("`import lossproof` adds 2 ms to the 1000 ms of `import torch`")
    assert "lossproof alone: 3 ms" in drawn
    cases = [
        {"case": name, "methods": {"watched": {"ratio": {"step": {"median": ratio}}}}}
        for name, ratio in (("small", 1.03), ("large", 1.01))
    ]
    sentence, drawn = benchmarks.watch({"cases": cases})
    assert "takes 1.01 to 1.03 of the time" in sentence
    assert "lossproof: small: 1.03" in drawn
