"""The file of the page: told from others, and replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

GENERATOR = '<meta name="generator" content="lossproof demo '
"""By this a page tells that it was written here."""
HEAD = 4096
"""Characters in which that stands."""


def is_ours(path: Path) -> bool:
    """Whether a file is a page that was written here."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(HEAD)


def write(text: str, path: Path) -> None:
    """Write the page to a file, which is replaced whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
