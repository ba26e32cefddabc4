"""Links that leave ``docs/`` are right on GitHub; on the site they lead to the repository.

A picture from elsewhere in the repository is copied to the site, so that it needs no network.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SOURCE = "https://github.com/lossproof/lossproof/blob/main/"
PICTURES = ("examples/*.png",)
COPIED = "assets"
FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<start>\]\(|\bsrc=\")(?P<target>\.\.?/[^)\"#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pictures of the examples."""
    for pattern in PICTURES:
        for path in sorted(ROOT.glob(pattern)):
            name = f"{COPIED}/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page that leave ``docs/``."""
    folder = posixpath.dirname(page.file.src_uri)

    def turned(found: re.Match[str]) -> str:
        return found["start"] + turned_link(found["target"], folder, files)

    parts = FENCED.split(markdown)
    return "".join(p if k % 2 else LINK.sub(turned, p) for k, p in enumerate(parts))


def turned_link(target: str, folder: str, files: Any) -> str:
    """Where a link from a page in this folder of ``docs/`` leads on the site."""
    place = posixpath.normpath(posixpath.join("docs", folder, target))
    if place.startswith(("docs/", "..")):
        return target
    if not (ROOT / place).exists():
        return target  # for MkDocs to complain of
    copy = f"{COPIED}/{place}"
    if files.get_file_from_path(copy) is not None:
        return posixpath.relpath(copy, folder or ".")
    return SOURCE + place
