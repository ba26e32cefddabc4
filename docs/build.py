"""Write the pages that are made from the code and from results: ``python docs/build.py``.

They are committed, so that the guide can be read in the repository as well. ``--text`` leaves the
pictures of the losses as they are: to draw them takes minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from docs.making import (
    architecture,
    benchmarks,
    commands,
    gallery,
    integrations,
    losses,
    rules,
    terms,
)

MADE = (losses, terms, rules, gallery, commands, integrations, benchmarks, architecture)
WHOLE_FOLDERS = (losses.FOLDER, terms.FOLDER, rules.FOLDER)
"""Folders in which every page is made here: what is not made any more is removed."""


def pages() -> Mapping[Path, str]:
    """The text of every page that is made, by its file."""
    return {file: text for part in MADE for file, text in part.pages().items()}


def gone(made: Mapping[Path, str]) -> Iterator[Path]:
    """The pages whose rule, loss or balancer is gone."""
    for folder in WHOLE_FOLDERS:
        yield from (old for old in folder.glob("*.md") if old not in made)


def main() -> None:
    """Draw the pictures, write the pages, and remove those of what is gone."""
    if "--text" not in sys.argv[1:]:
        losses.draw()
    made = pages()
    for old in gone(made):
        old.unlink()
    for file, text in made.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
