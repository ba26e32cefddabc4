"""What the command line says beside its results: progress and failures, on standard error.

And what the terminal that the results go to can do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from lossproof.checks.report import Report

NO_VERDICT = 2
INTERRUPTED = 130
"""What a shell reports of a command that Ctrl-C ended: 128 + SIGINT."""


def _watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def spinner(what: str, quiet: bool) -> Iterator[None]:
    """A spinner on standard error, where somebody is there to see it."""
    if quiet or not _watched():
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
    if quiet or not _watched():
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
        give_up(own_fault(str(error), error.traceback, verbose))
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def own_fault(words: str, trace: str, verbose: bool) -> str:
    """What is said where lossproof itself failed."""
    advice = "" if verbose else " and the output of the same command with `--verbose`"
    told = (
        f"error: lossproof itself failed: {words}\n"
        "this is a fault of lossproof, not of your loss; please report it with the loss"
        f"{advice}: https://github.com/lossproof/lossproof/issues"
    )
    return f"{trace}\n{told}" if verbose else told


@contextlib.contextmanager
def nothing_gets_out() -> Iterator[None]:
    """Tell in words, as the last resort, what nobody has foreseen: a full disk, a fault of ours."""
    try:
        try:
            yield
        finally:
            _flush()
    except OSError as error:
        _last_words(f"error: {_what_is_missing(error)}")
    except Exception as error:
        verbose = bool({"--verbose", "-v"} & set(sys.argv))
        words = f"{type(error).__name__}: {error}"
        _last_words(own_fault(words, traceback.format_exc(), verbose))


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _what_is_missing(error: OSError) -> str:
    try:
        os.getcwd()
    except OSError:
        return "the current folder is not there any more"
    place = f": `{error.filename}`" if error.filename else ""
    return f"{error.strerror or error}{place}"


def _last_words(message: str) -> NoReturn:
    """Write to standard error what can be written, and leave past the streams that failed."""
    with contextlib.suppress(Exception):
        give_up(message)
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(NO_VERDICT)


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
    return on_terminal() and os.environ.get("TERM") != "dumb"


def on_terminal() -> bool:
    """Whether somebody looks at standard output, which may be closed."""
    return sys.stdout is not None and sys.stdout.isatty()


def width() -> int:
    """The terminal's width, within what reads well; 100 where there is no terminal."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 120))
