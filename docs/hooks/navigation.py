"""The navigation of ``mkdocs.yml``, with its patterns filled in.

- ``folder/*.md`` stands for the pages of a folder that are not named elsewhere, by their titles;
- ``by headings of folder/README.md`` stands for the pages that this page links in its tables, in a
  section for each of its headings.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

LOG = logging.getLogger("mkdocs.hooks.navigation")
BY_HEADINGS = "by headings of "
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| \[[^\]]+\]\(([\w-]+\.md)\)", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the patterns."""
    docs = Path(config.docs_dir)
    assert config.nav is not None
    named = set(_pages(config.nav))
    config.nav = _filled(config.nav, docs, named)
    return config


def _pages(nav: Any) -> Iterator[str]:
    """All that is named in a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(part)


def _filled(nav: list[Any], docs: Path, named: set[str]) -> list[Any]:
    found: list[Any] = []
    for part in nav:
        if isinstance(part, dict):
            ((title, inner),) = part.items()
            found.append({title: _filled(inner, docs, named) if isinstance(inner, list) else inner})
        elif part.startswith(BY_HEADINGS):
            found += _by_headings(part.removeprefix(BY_HEADINGS), docs)
        elif "*" in part:
            found += _by_title(part, docs, named)
        else:
            found.append(part)
    return found


def _by_title(pattern: str, docs: Path, named: set[str]) -> list[str]:
    found = {path.relative_to(docs).as_posix(): path for path in docs.glob(pattern)}
    if not found:
        LOG.warning("no page in %s/ is called %s", docs.name, pattern)
    return sorted(found.keys() - named, key=lambda name: title_of(found[name]).lower())


def title_of(path: Path) -> str:
    """The title of a page."""
    found = TITLE.search(path.read_text(encoding="utf-8"))
    if found is None:
        raise PluginError(f"{path} has no title")
    return found[1].replace("`", "")


def _by_headings(index: str, docs: Path) -> list[dict[str, list[str]]]:
    _, *parts = HEADING.split((docs / index).read_text(encoding="utf-8"))
    folder = index.rpartition("/")[0]
    found = []
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        if pages := [f"{folder}/{name}" for name in ROW.findall(text)]:
            found.append({heading: pages})
    return found
