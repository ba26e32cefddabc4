"""The file of the page, told from others."""

from __future__ import annotations

from pathlib import Path

GENERATOR = '<meta name="generator" content="lossproof demo '
"""By this a page tells that it was written here."""
HEAD = 4096
"""Characters in which that stands."""


def is_ours(path: Path) -> bool:
    """Whether a file is a page that was written here."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(HEAD)
