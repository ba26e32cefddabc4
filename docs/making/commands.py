"""The page of the command line, made from the commands themselves."""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.models import ArgumentInfo, OptionInfo

from lossproof.cli import app

FILE = Path(__file__).parents[1] / "commands.md"
INTRODUCTION = """\
# The command line

{help} Results go to standard output, progress and everything that your code prints to standard
error. This page is made from the commands by `python docs/build.py`; `lossproof COMMAND --help`
says the same.

| exit code | meaning |
|---|---|
| 0 | nothing was found, or two losses are the same |
| 1 | there are findings, or two losses differ |
| 2 | there is no verdict: the request was wrong, or no loss could be looked at |
"""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a command, as its function declares it."""

    name: str
    kind: Any
    info: ArgumentInfo | OptionInfo
    required: bool

    @property
    def metavar(self) -> str:
        """What stands for its value."""
        return str(self.info.metavar or self.name.upper())

    @property
    def usage(self) -> str:
        """An argument in a line of usage."""
        word = self.metavar + ("..." if typing.get_origin(self.kind) is list else "")
        return word if self.required else f"[{word}]"

    @property
    def names(self) -> str:
        """The names of an option, and what its value may be."""
        # Within `Annotated`, typer takes the first name that it is given for the default.
        given = (self.info.default, *(self.info.param_decls or ()))
        declared = [one for one in given if isinstance(one, str) and one.startswith("-")]
        declared = declared or [f"--{self.name.replace('_', '-')}"]
        names = ", ".join(f"`{one}`" for one in declared)
        if self.kind is bool:
            return names
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            return f"{names} {' or '.join(f'`{one.value}`' for one in self.kind)}"
        return f"{names} `{self.metavar}`"

    @property
    def words(self) -> str:
        """Its help, in one line of a table."""
        return " ".join((self.info.help or "").split()).replace("|", "\\|")


def pages() -> Mapping[Path, str]:
    """The text of the page, by its file."""
    parts = [INTRODUCTION.format(help=app.info.help)]
    for command in app.registered_commands:
        assert command.callback is not None
        parts.append("\n".join(section(command.callback)))
    return {FILE: "\n".join(parts)}


def section(command: Callable[..., Any]) -> Iterator[str]:
    """What a command takes, in Markdown."""
    given = list(parameters(command))
    arguments = [one for one in given if isinstance(one.info, ArgumentInfo)]
    options = [one for one in given if isinstance(one.info, OptionInfo)]
    words = [*(["[OPTIONS]"] if options else []), *(one.usage for one in arguments)]
    usage = " ".join(["lossproof", command.__name__, *words])
    yield from (f"## `lossproof {command.__name__}`", "", inspect.getdoc(command) or "", "")
    yield from ("```text", usage, "```", "")
    if arguments:
        yield from ("| argument | |", "|---|---|")
        yield from (f"| `{one.metavar}` | {one.words} |" for one in arguments)
        yield ""
    if options:
        yield from ("| option | |", "|---|---|")
        yield from (f"| {one.names} | {one.words} |" for one in options)
        yield ""


def parameters(command: Callable[..., Any]) -> Iterator[Parameter]:
    """The parameters of a command, without those that its help does not show."""
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        kind, info = typing.get_args(hints[name])
        if not info.hidden:
            yield Parameter(name, not_none(kind), info, parameter.default is parameter.empty)


def not_none(kind: Any) -> Any:
    """A type without its ``None``."""
    if isinstance(kind, types.UnionType):
        (kind,) = (one for one in typing.get_args(kind) if one is not type(None))
    return kind
