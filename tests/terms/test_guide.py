"""The guide runs, and the pages are those of the code."""

import re
from pathlib import Path

import pytest
from tests.docs.pages import Page

from lossproof.terms.balance.listing import balancers

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "terms"
GUIDE = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_guide_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Page(FOLDER / "README.md").run_session(tmp_path)
    said = capsys.readouterr().out
    assert "total" in said
    assert (tmp_path / "terms.png").stat().st_size > 10_000


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http|#)([^)]+)\)", GUIDE))))
def test_a_link_leads_somewhere(target):
    assert (FOLDER / target).resolve().exists()


@pytest.mark.parametrize("entry", balancers(), ids=lambda entry: entry.name)
def test_a_page_holds_the_whole_docstring(entry):
    text = (FOLDER / f"{entry.name}.md").read_text(encoding="utf-8")
    for word in re.findall(r"[A-Za-z]{4,}", entry.doc):
        if word not in {"Args", "math", "func", "class", "meth", "code", "block"}:
            assert word in text, word
    assert ":math:" not in text
    assert not re.search(r"(?<!`)``(?!`)", text)
    assert text.count("```") % 2 == 0
