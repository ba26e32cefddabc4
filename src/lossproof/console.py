"""What the command line says beside its results: progress and failures, on standard error.

And what the terminal that the results go to can do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from lossproof.checks.report import Report

NO_VERDICT = 2
INTERRUPTED = 130
"""What a shell reports of a command that Ctrl-C ended: 128 + SIGINT."""


@contextlib.contextmanager
def spinner(what: str, quiet: bool) -> Iterator[None]:
    """A spinner on standard error, where somebody is there to see it."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(what)):
        yield


@contextlib.contextmanager
def bar(total: int, quiet: bool) -> Iterator[Callable[[Report], None]]:
    """A progress bar on standard error that moves on with each loss that was checked."""
    done = itertools.count(1)
    with steps(total, quiet) as show:
        yield lambda report: show(next(done), report.subject)


@contextlib.contextmanager
def steps(total: int, quiet: bool) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on standard error, where somebody is there to see it.

    Gives what is to be told how many steps are done, and a word on where it is.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, words: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}", markup=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, words: progress.update(task, completed=done, description=escape(words))


@contextlib.contextmanager
def failures_explained(verbose: bool) -> Iterator[None]:
    """Say on standard error why there is no verdict, and end with the exit code for that."""
    from lossproof.checks.process import InternalError
    from lossproof.errors import UsageError

    try:
        yield
    except UsageError as error:
        give_up(f"error: {error}")
    except InternalError as error:
        advice = "" if verbose else " and the output of the same command with `--verbose`"
        trace = f"{error.traceback}\n" if verbose else ""
        give_up(
            f"{trace}error: lossproof itself failed: {error}\n"
            "this is a fault of lossproof, not of your loss; please report it with the loss"
            f"{advice}: https://github.com/lossproof/lossproof/issues"
        )
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def give_up(message: str) -> NoReturn:
    """Say why there is no verdict, and end with the exit code for that."""
    from lossproof.show.source import visible

    typer.echo("\n".join(map(visible, message.split("\n"))), err=True)
    raise typer.Exit(NO_VERDICT)


def color() -> bool:
    """Whether to use colours: https://no-color.org and https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def width() -> int:
    """The terminal's width, within what reads well; 100 where there is no terminal."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 120))
