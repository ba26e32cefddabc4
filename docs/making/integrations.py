"""The reference of the integrations: what each module offers, read from its source.

Nothing is imported: each module wants its tool.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).parents[1] / "api" / "integrations.md"
SOURCE = Path(__file__).parents[2] / "src" / "lossproof" / "integrations"
INTRODUCTION = """\
# Integrations, in Python

Each module is imported by itself, and asks for its tool then; its page says how it is used. (On the
site the docstrings stand below.)
"""
LEVEL = "\n    options: { heading_level: 3 }\n"


def pages() -> Mapping[Path, str]:
    """The text of the page, by its file."""
    parts = [INTRODUCTION]
    for file in sorted(SOURCE.glob("[!_]*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if not public(tree):
            continue
        name = f"lossproof.integrations.{file.stem}"
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        offered = [f"::: {name}.{one}{LEVEL}" for one in public(tree)]
        parts += [f"## `{name}`\n\n{summary}\n", *offered]
    return {FILE: "\n".join(parts)}


def public(tree: ast.Module) -> list[str]:
    """What a module offers; one without `__all__` is a part of another, and offers nothing."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    return []
