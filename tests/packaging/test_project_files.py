"""The files that tell of the project: the citation, the policy, the checklist."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from lossproof.cli import app

ROOT = Path(__file__).parents[2]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_has_what_the_format_requires():
    """https://github.com/citation-file-format/citation-file-format, version 1.2.0."""
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load(read("CITATION.cff"))
    assert found["cff-version"] == "1.2.0"
    assert {"authors", "message", "title"} < set(found)
    assert set(found) <= {
        "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi",
        "identifiers", "keywords", "license", "license-url", "message", "preferred-citation",
        "references", "repository", "repository-artifact", "repository-code", "title", "type",
        "url", "version",
    }  # fmt: skip
    assert all(isinstance(author["name"], str) for author in found["authors"])
    assert found["type"] in ("software", "dataset")
    assert (found["license"], found["repository-code"].partition("//")[0]) == (
        "Apache-2.0", "https:",
    )  # fmt: skip


def test_the_policy_speaks_of_every_command():
    commands = {command.callback.__name__ for command in app.registered_commands}
    policy = read("SECURITY.md")
    assert {name for name in commands if f"`{name}`" not in policy} == set()


def test_every_step_of_the_checklist_is_a_command_that_there_is():
    text = read("RELEASING.md")
    steps = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", text, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    made = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    for _, step in steps:
        blocks = re.findall(r"```sh\n(.*?)```", step, re.DOTALL)
        assert blocks, step
        for command in blocks:
            words = shlex.split(command)
            assert {word for before, word in pairwise(words) if before == "make"} <= made
            for word in words:
                assert not word.startswith("scripts/") or (ROOT / word).is_file()
