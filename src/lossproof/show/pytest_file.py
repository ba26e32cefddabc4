"""A pytest file that checks losses, for a project to keep and to edit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossproof.show.source import visible


@dataclass(frozen=True)
class Entry:
    """One loss of the file.

    ``inputs`` are specifications; nothing means that a function beside the loss gives the inputs.
    """

    target: str
    inputs: tuple[str, ...] = ()


def render(
    entries: Sequence[Entry],
    *,
    file: Path,
    root: Path,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    left_out: Iterable[str] = (),
) -> str:
    """The text of a pytest file with one test, run for each loss.

    Args:
        entries: the losses, by targets that are relative to ``root``.
        file: where the text will stand.
        root: the folder of the project.
        select: the rules that the project runs.
        ignore: the rules that it leaves out.
        left_out: losses that could not be looked at, each with the reason.
    """
    beside = any(not entry.inputs for entry in entries)
    options = [
        f", {name}={json.dumps(list(words))}"
        for name, words in (("select", select), ("ignore", ignore))
        if words
    ]
    return "\n".join(
        [
            *HEAD,
            f"from lossproof.checks.loading import load{', neighbour_inputs' if beside else ''}",
            "",
            f"ROOT = {_root(file, root)}",
            "",
            *(BESIDE if beside else ()),
            "LOSSES = {",
            *(f"    {_quoted(entry.target)}: {_tuple(entry.inputs)}," for entry in entries),
            "}",
            *(f"# left out: {visible(' '.join(why.split()))}" for why in left_out),
            "",
            "",
            '@pytest.mark.parametrize("target", LOSSES)',
            "def test_a_loss_is_right(target):",
            f'    loss, {"module" if beside else "_"} = load(f"{{ROOT}}/{{target}}")',
            *(_inputs(beside)),
            f"    lossproof.assert_right(loss, *inputs{''.join(options)})",
            "",
        ]
    )


HEAD = (
    '"""Every loss of this project is right, to the limits that `lossproof check` gives.',
    "",
    "Written by `lossproof init`, and yours to edit. The inputs were inferred: make them look like",
    "those of your training, or replace them by tensors.",
    '"""',
    "",
    "from pathlib import Path",
    "",
    "import pytest",
    "",
    "import lossproof",
)
BESIDE = (
    "# Where there are no specifications, the function beside the loss gives the inputs, such as",
    "# `focal_loss_inputs()`, or `inputs()` for all losses of the file.",
)


def _inputs(beside: bool) -> list[str]:
    if beside:
        return [
            '    inputs = LOSSES[target] or neighbour_inputs(module, target.rpartition(":")[2])',
        ]
    return ["    inputs = LOSSES[target]"]


def _root(file: Path, root: Path) -> str:
    """How the file finds the folder of the project."""
    if file.is_relative_to(root):
        above = len(file.relative_to(root).parts) - 1
        return f"Path(__file__).resolve().parents[{above}]"
    return f"(Path(__file__).parent / {_quoted(os.path.relpath(root, file.parent))}).resolve()"


def _tuple(words: Sequence[str]) -> str:
    if not words:
        return "()"
    return f"({', '.join(map(_quoted, words))}{',' * (len(words) == 1)})"


def _quoted(text: str) -> str:
    """A Python literal, in double quotes; JSON escapes what has to be, and as Python does."""
    return json.dumps(text, ensure_ascii=False)
