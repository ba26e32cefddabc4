"""Who imports whom among the rooms, read from the code."""

from __future__ import annotations

import ast
import enum
from collections.abc import Iterator, Mapping
from pathlib import Path

import grimp

PACKAGE = "lossproof"
SOURCE = Path(__file__).parents[2] / "src" / PACKAGE
COMMAND_LINE = ("__main__", "answers", "cli", "console")
"""The modules of the package that are one room, the command line."""
SHARED = {"errors"}
"""What every room may import, and no picture shows."""
NOT_DRAWN = SHARED | {"demo"}
"""Nor does it show the demo, which tells the stories with everything that there is."""


class Kind(enum.Enum):
    """When a room loads another."""

    AT_ONCE = "at once"
    ON_USE = "on use"
    """Within a function: on its first call, and never for those who do not call it."""


def room_of(module: str) -> str:
    """The room that a module belongs to; the public face is a room as well."""
    first = module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]
    return "cli" if first in COMMAND_LINE else first or "face"


def arrows() -> Mapping[tuple[str, str], Kind]:
    """For each room that imports another, when; imports for type checkers alone do not count."""
    found: dict[tuple[str, str], Kind] = {}
    for importer, imported, kind in imports():
        ends = room_of(importer), room_of(imported)
        if ends[0] != ends[1] and not NOT_DRAWN & set(ends) and ends[1] != "face":
            found[ends] = Kind.AT_ONCE if Kind.AT_ONCE in (kind, found.get(ends)) else Kind.ON_USE
    # The public face loads a room on the first use of one of its names; `_HOMES` says which.
    found |= {("face", room): Kind.ON_USE for room in sorted(_offered())}
    return dict(sorted(found.items()))


def imports() -> Iterator[tuple[str, str, Kind]]:
    """Every import of one of our modules by another: who, whom, when."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    for importer in sorted(graph.modules):
        within = _lines_in_functions(importer)
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            for detail in graph.get_import_details(importer=importer, imported=imported):
                late = detail["line_number"] in within
                yield importer, imported, Kind.ON_USE if late else Kind.AT_ONCE


def _lines_in_functions(module: str) -> set[int]:
    """The lines of the imports that run when a function is called."""
    path = SOURCE.parent / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return {
        inner.lineno
        for function in functions
        for inner in ast.walk(function)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
    }


def _offered() -> set[str]:
    """The rooms whose names the public face offers."""
    import lossproof

    return {room_of(home) for home in lossproof._HOMES.values()} - NOT_DRAWN
