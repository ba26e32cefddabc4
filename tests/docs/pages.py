"""A Markdown page whose code is run: its files, its Python, its commands and what they print.

The blocks of a page are told apart by their language and first line:

- a block that begins with ``# name.py`` (or ``.toml``, ...) is a file, there before anything runs;
- every other ``python`` block is a part of one session, run from top to bottom; one that begins
  with ``>>>`` shows its output, and so does a ``text`` block right below one: it is compared;
- a ``console`` block holds commands after ``$``, run one by one, and what each prints. A line of
  ``...`` stands for any lines.

``<!-- not run: reason -->`` above a block leaves it out.
"""

from __future__ import annotations

import doctest
import io
import linecache
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)\n")
PROGRAMS = ("lossproof", "python", "torchrun")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TIME_LIMIT = 300.0
"""Seconds for a command: so long only a command takes that never ends."""
Around = Callable[[str], AbstractContextManager[object]]


def nothing(text: str) -> AbstractContextManager[None]:
    """What a block is run within, if nothing else is asked for."""
    return nullcontext()


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Where its first line stands in the page."""
    reason: str | None
    """Why it is not run; None if it is."""
    shown: str | None = None
    """What the page says that it prints: the ``text`` block right below it."""

    @property
    def file(self) -> str | None:
        """The name of the file that it shows."""
        found = FILE_NAME.match(self.text)
        return found[1] if found else None

    @property
    def in_session(self) -> bool:
        """Whether it belongs to the page's Python session."""
        return self.language == "python" and self.file is None and self.reason is None


@dataclass(frozen=True)
class Command:
    """A command of a page, and what the page says that it prints."""

    line: str
    shown: str


@dataclass(frozen=True)
class Page:
    """A page of the guide."""

    path: Path

    @property
    def name(self) -> str:
        """Where it is in the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        """Its Markdown."""
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        text = self.text
        fences = list(FENCE.finditer(text))
        return [
            Block(
                found["language"],
                re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
                1 + text.count("\n", 0, found.start("text")),
                found["reason"],
                below["text"] if below and is_output(text, found, below) else None,
            )
            for found, below in zip_longest(fences, fences[1:])
        ]

    @property
    def commands(self) -> list[Command]:
        """The commands that it shows, in order."""
        shown = [one for one in self.blocks if one.language == "console" and one.reason is None]
        return [command for block in shown for command in commands_of(block.text)]

    @property
    def runs(self) -> bool:
        """Whether it has a Python session."""
        return any(block.in_session for block in self.blocks)

    def write_files(self, folder: Path) -> list[str]:
        """Write the files that it shows, and name them."""
        shown = {block.file: block.text for block in self.blocks if block.file}
        for name, text in shown.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        return list(shown)

    def run_session(self, folder: Path, around: Around = nothing) -> dict[str, Any]:
        """Run its Python from top to bottom, as a module; give back its names.

        Args:
            folder: where the session is kept as a file, so that `inspect` finds its source. Each
                line of it has the number that it has in the page.
            around: what each block is run within, by its text.
        """
        file = folder / f"{self.path.stem}_session.py"
        blocks = [block for block in self.blocks if block.in_session]
        plain = [block for block in blocks if not block.text.startswith(">>>")]
        file.write_text(on_their_lines(plain), encoding="utf-8")
        linecache.checkcache(str(file))
        module = sys.modules[file.stem] = ModuleType(file.stem)
        namespace = module.__dict__
        namespace["__file__"] = str(file)
        for block in blocks:
            printed = io.StringIO()
            try:
                with around(block.text), redirect_stdout(printed):
                    if block in plain:
                        text = "\n" * (block.line - 1) + block.text
                        exec(compile(text, str(file), "exec"), namespace)
                    else:
                        run_doctest(block, namespace, self.name)
            finally:
                sys.stdout.write(printed.getvalue())
            if block.shown is not None:
                assert agree(block.shown, printed.getvalue()), (
                    f"{self.name}, below line {block.line}, should show\n{printed.getvalue()}"
                )
        return namespace


def is_output(text: str, block: re.Match[str], below: re.Match[str]) -> bool:
    """Whether a ``text`` block shows what the block above it prints: nothing stands between."""
    return (block["language"], below["language"]) == ("python", "text") and not text[
        block.end() : below.start()
    ].strip()


def on_their_lines(blocks: list[Block]) -> str:
    """Blocks as one text in which each begins on the line on which it begins in the page."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    return "\n".join(lines) + "\n"


def run_doctest(block: Block, namespace: dict[str, Any], name: str) -> None:
    """Run a block of ``>>>`` lines, and compare what they print."""
    test = doctest.DocTestParser().get_doctest(
        block.text, namespace, name, str(ROOT / name), block.line - 1
    )
    test.globs = namespace  # the parser copies it, and names would be lost to the next block
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)


def commands_of(text: str) -> list[Command]:
    """The commands of a ``console`` block of a program that is ours to run."""
    text = text.replace("\\\n", " ")
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        assert shlex.split(line)[0] in PROGRAMS, f"`{line}` is not run: it is no console block"
        found.append(Command(" ".join(line.split()), shown))
    return found


def printed_by(command: Command, folder: Path) -> str:
    """What a command prints to stdout in this folder; an exit code of 2 or more is a failure."""
    program, *arguments = shlex.split(command.line)
    python = Path(sys.executable)
    result = subprocess.run(
        [python if program == "python" else python.parent / program, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        timeout=TIME_LIMIT,
    )
    assert result.returncode in (0, 1), result.stderr
    return result.stdout


def agree(shown: str, printed: str) -> bool:
    """Whether a command printed what is shown, but for times, last digits and line breaks."""
    parts = re.split(r"^ *\.\.\. *\n", shown, flags=re.MULTILINE)
    pattern = r"(?:\S+ )*".join(re.escape(comparable(part)) for part in parts)
    return re.fullmatch(pattern, comparable(printed)) is not None


def comparable(text: str) -> str:
    """The words of a text, each with a blank after it, without what differs between machines."""
    text = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)? ?(s|ms|µs)\b", "<time>", text)
    text = re.sub(r"-?\d+\.\d+(e[+-]?\d+)?|-?\d+e[+-]?\d+", "<number>", text)
    text = re.sub(r"\b\d+(?= times as\b)", "<number>", text)  # a measured ratio may be whole
    return "".join(f"{word} " for word in text.split())  # the length of a number moves line breaks
