"""Docstrings as the reference wants them: formulas, roles and examples in Markdown."""

from __future__ import annotations

import importlib.util
import re
import textwrap
from pathlib import Path
from typing import Any

import griffe

# Loaded by its file, so that the build of the site does not import the library, and torch with it.
HOME = Path(__file__).parents[2] / "src" / "lossproof" / "show" / "docstring.py"
_SPEC = importlib.util.spec_from_file_location("lossproof_docstring", HOME)
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
OURS = re.compile(r"^(Example|Shape|Source):\n((?:    .*\n?|\n)+)", re.MULTILINE)
"""Sections that griffe would take for boxes of text."""


class Docstrings(griffe.Extension):
    """Turns each docstring when its object is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Turn it once, before it is parsed."""
        if obj.docstring is not None:
            text = OURS.sub(_as_markdown, obj.docstring.value + "\n")
            obj.docstring.value = _MODULE.prose(text)


def _as_markdown(found: re.Match[str]) -> str:
    title, content = found[1], textwrap.dedent(found[2])
    return f"**{title}**\n\n{_MODULE.section(title, content)}\n\n"
