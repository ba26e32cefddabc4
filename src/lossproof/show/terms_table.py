"""The terms of one step as a table in plain text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 1000
"""A table is as wide as its numbers: a cell that is broken into lines cannot be compared."""


def render(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str] = ()
) -> str:
    """A title, a table and some lines below it.

    Args:
        title: what stands above the table.
        header: the title of each column.
        rows: the cells of each row, the first of which is its name.
        lines: what stands below the table.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    for position, word in enumerate(header):
        table.add_column(Text(word), justify="right" if position else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDEST, color_system=None, legacy_windows=False)
    for part in (Text(title), table, *map(Text, lines)):
        console.print(part, soft_wrap=isinstance(part, Text))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
