"""The pages of the guide that are written by hand: each is listed, and leads on."""

import re

import pytest
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"
STORIES = {
    "function_or_layer": "function_or_layer.py",
    "catalogue_and_base": "catalogue.py",
    "linear_regression": "linear_regression.py",
    "cross_entropy": "cross_entropy.py",
    "composite_loss": "helmholtz_pinn.py",
}
"""The five stories, and the file of each."""


def links_of(path):
    return re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))


def test_every_question_is_listed_once():
    listed = links_of(DOCS / "how_to" / "README.md")
    pages = {path.name for path in (DOCS / "how_to").glob("*.md")} - {"README.md"}
    assert sorted(link for link in listed if "/" not in link) == sorted(pages)


@pytest.mark.parametrize(("story", "example"), STORIES.items())
def test_a_story_names_its_file(story, example):
    assert f"../../examples/{example}" in links_of(DOCS / "stories" / f"{story}.md")
    assert (ROOT / "examples" / example).exists()


def test_the_readme_leads_to_every_story():
    told = links_of(ROOT / "README.md")
    assert {f"docs/stories/{story}.md" for story in STORIES} <= set(told)


@pytest.mark.parametrize("path", sorted(DOCS.glob("how_to/*.md")), ids=lambda path: path.stem)
def test_a_question_is_answered_in_a_minute(path):
    text = path.read_text(encoding="utf-8")
    title, answer, *_ = text.split("\n\n")
    assert title.startswith("# ")
    assert not answer.startswith(("```", "#", "|"))
    assert text.count("\n") <= 100
