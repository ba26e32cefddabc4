"""Formulas as GitHub writes them, drawn as MathML: ``$`x`$`` in a line, a ``math`` fence by itself.

TeX is turned into MathML when the site is built, and the browser draws it itself: no script, no
font, no network. A formula that cannot be turned is an error of the build.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig

INLINE = r"(?<!`)``(?!`).+?(?<!`)``(?!`)|\$`([^`]+)`\$"
"""Code in double backticks, which may show a formula as it is written; or a formula."""
BEFORE_CODE = 200
"""The priority of the pattern: that of code in backticks is 190."""


@cache
def mathml(tex: str, *, display: bool) -> str:
    """A formula as MathML; what it was in TeX is kept as its text for screen readers."""
    made = LatexToMathML(annotation=False).convert_with_local_state(tex, displaystyle=display)
    return made.replace("&ApplyFunction;", "")  # no browser draws it, and a search finds the name


class Inline(InlineProcessor):
    """Replaces a formula within a line."""

    def handleMatch(  # noqa: N802 - the name that Markdown calls
        self, m: re.Match[str], data: str
    ) -> tuple[str | Element | None, int | None, int | None]:
        if m[1] is None:
            return None, None, None
        stored = self.md.htmlStash.store(mathml(m[1], display=False))
        return stored, m.start(0), m.end(0)


class Formulas(Extension):
    """What Markdown is told."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the same
        md.inlinePatterns.register(Inline(INLINE, md), "formula", BEFORE_CODE)


def fence(source: str, *_: Any, **__: Any) -> str:
    """A formula by itself, in a box that scrolls where it is too wide."""
    return f'<div class="formula">{mathml(source, display=True)}</div>'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Tell Markdown, and its fences, of formulas."""
    config.markdown_extensions.append(Formulas())
    fences: Mapping[str, Any] = {"name": "math", "class": "formula", "format": fence}
    options = config.mdx_configs.setdefault("pymdownx.superfences", {})
    options.setdefault("custom_fences", []).append(fences)
    return config
