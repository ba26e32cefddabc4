"""The gallery: the curves of value and derivative of every loss, family by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.making.losses import PICTURES, pictures_of

from lossproof.losses.catalogue import CatalogueEntry, catalogue

FILE = Path(__file__).parents[1] / "gallery.md"
ALT = ("value", "derivative")
INTRODUCTION = """\
# The gallery

All {count} losses of [the catalogue](losses/README.md) in pictures: the value, and the derivative
with finite differences beside it, while one number of the example inputs moves. A picture leads to
the loss's page.

"""
OPENED = ('<div class="gallery" markdown>', "")


def pages() -> Mapping[Path, str]:
    """The text of the page, by its file."""
    entries = catalogue()
    families = dict.fromkeys(entry.family for entry in entries)
    walls = [wall(name, [e for e in entries if e.family == name]) for name in families]
    return {
        FILE: INTRODUCTION.format(count=len(entries)) + "\n".join([*OPENED, *walls, "</div>\n"])
    }


def wall(family: str, entries: Sequence[CatalogueEntry]) -> str:
    """The pictures of a family."""
    title = family.replace("_", " ").capitalize()
    return "\n".join([f"## {title}", "", *(card(entry) for entry in entries), ""])


def card(entry: CatalogueEntry) -> str:
    """A loss in the gallery: its pictures and its name, which are a link, and what it is."""
    pictures = "".join(
        f'<img src="losses/{PICTURES}/{name}" alt="{entry.name}: {what}" width="200" '
        'loading="lazy">'
        for name, what in zip(pictures_of(entry), ALT, strict=True)
    )
    return f"- [{pictures}<br>`{entry.name}`](losses/{entry.name}.md)<br>{entry.summary}"
