"""Lines of source code, ready to be shown with a span underlined."""

from __future__ import annotations

import linecache
import os
import unicodedata
from dataclasses import dataclass

from lossproof.checks.report import Location

TAB = " " * 4
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that could change what a terminal shows elsewhere: control and format
characters (colours, cursor, direction of writing), lone surrogates and line separators."""
JOINERS = "\u200c\u200d"
"""Format characters that words and emoji are made with."""


def visible(text: str) -> str:
    """The text with tabs expanded and with characters that would act on a terminal spelt out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character == "\t":
        return TAB
    if character in JOINERS or unicodedata.category(character) not in UNSAFE:
        return character
    return character.encode("unicode_escape").decode()


def shown_path(file: str) -> str:
    """The path from the current folder where the file lies inside it, else as it is."""
    folder = os.getcwd()
    inside = file.startswith(folder.rstrip(os.sep) + os.sep)
    return visible(os.path.relpath(file, folder) if inside else file)


@dataclass(frozen=True)
class Line:
    """One line of code, split where the span begins and ends. ``number`` counts from 1."""

    number: int
    before: str
    culprit: str
    after: str


def lines_of(place: Location, around: int = 0) -> list[Line]:
    """The lines of a location, with tabs expanded; nothing if no source can be found.

    Where the file no longer says what the location remembers, only the remembered line is shown.

    Args:
        place: where to look.
        around: how many lines to show before and after; blank ones at the ends are left out.
    """
    last = place.end_line or place.line
    texts = [_text(place.file, n) for n in range(place.line, last + 1)]
    changed = place.source is not None and texts[0] != place.source
    if changed:
        texts = [place.source or ""]
    if not texts[0].strip():
        return []
    found = [_split(place, place.line + i, text, i, len(texts)) for i, text in enumerate(texts)]
    if changed:
        return found
    before = [_plain(place.file, n) for n in range(max(place.line - around, 1), place.line)]
    after = [_plain(place.file, n) for n in range(last + 1, last + around + 1)]
    while before and not before[0].before.strip():
        del before[0]
    while after and not after[-1].before.strip():
        del after[-1]
    return [*before, *found, *after]


def _text(file: str, number: int) -> str:
    try:
        return linecache.getline(file, number).rstrip("\r\n")
    except ValueError:  # a name that no file on this system can have, in a report from elsewhere
        return ""


def _plain(file: str, number: int) -> Line:
    """A line beside the span."""
    return Line(number, visible(_text(file, number)), "", "")


def _split(place: Location, number: int, text: str, index: int, count: int) -> Line:
    indent = len(text) - len(text.lstrip())
    start, end = indent, len(text.rstrip())
    if index == 0 and place.column is not None:
        start = min(place.column - 1, end)
    if index == count - 1 and place.end_column is not None and place.end_line in (None, number):
        end = min(max(place.end_column - 1, start), end)
    return Line(number, visible(text[:start]), visible(text[start:end]), visible(text[end:]))
