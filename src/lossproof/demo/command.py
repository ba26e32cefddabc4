"""``lossproof demo``: tell the stories one after the other, then write the page.

No torch is imported here. The stories are told in a process of their own
(:mod:`lossproof.demo.worker`), so that Ctrl-C ends them at once and without a word of torch's.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

import typer

from lossproof.checks.process import InternalError, kill, own_group
from lossproof.console import color, steps, width
from lossproof.demo.messages import Begun, Message, Page, Request, Told
from lossproof.demo.page_file import is_ours
from lossproof.errors import UsageError
from lossproof.show.source import shown_path
from lossproof.show.whole_file import write_whole

WORKER = "lossproof.demo.worker"
COUNT = 5
"""How many stories there are."""


def run(numbers: Sequence[int], file: Path, *, force: bool, quiet: bool) -> int:
    """Tell the stories, write the page, and give back the exit code.

    Args:
        numbers: which stories, from 1; without any, all.
        file: the page.
        force: write over a file that is no page of ours.
        quiet: show a line for each story, and no progress.

    Raises:
        UsageError: the page cannot be written.
        InternalError: the stories broke off.
    """
    must_be_writable(file, force)
    wanted = tuple(sorted({*numbers})) or tuple(range(1, COUNT + 1))
    told: list[Told] = []
    with worker(Request(wanted, color(), width())) as messages:
        for message in with_progress(messages, quiet):
            if isinstance(message, Told):
                told.append(message)
                if not quiet:
                    typer.echo(f"{message.text}\n", color=True)
            else:
                save(message, file)
                print_end(told, message, file)
    return int(not all(one.holds for one in told))


# ---------------------------------------------------------------------------- the other process
@contextlib.contextmanager
def worker(request: Request) -> Iterator[Iterator[Message]]:
    """The process that tells these stories: what it says, as it says it."""
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER, json.dumps(asdict(request))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={"OMP_NUM_THREADS": "1", **os.environ},  # for small tensors more threads only wait
        **own_group(),
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield _messages(process, process.stdout)
        finally:
            kill(process)


def _messages(process: subprocess.Popen[bytes], answers: IO[bytes]) -> Iterator[Message]:
    """All messages up to the page, which is the last.

    Raises:
        InternalError: the process ended before.
    """
    message: Message | None = None
    while not isinstance(message, Page):
        try:
            message = pickle.load(answers)
        except EOFError:
            why = f"the process that tells the stories ended (exit code {process.wait()})"
            raise InternalError(why, "") from None
        yield message


def with_progress(messages: Iterable[Message], quiet: bool) -> Iterator[Told | Page]:
    """The stories and the page, with a bar on standard error while there is none."""
    with contextlib.ExitStack() as bar:
        bar.enter_context(steps(1, quiet))(0, "loading torch")
        for message in messages:
            if not isinstance(message, Begun):
                bar.close()
                yield message
                continue
            if message.done == 0:
                bar.close()
                show = bar.enter_context(steps(message.total, quiet))
            show(message.done, message.words)


# ---------------------------------------------------------------------------- the page
def must_be_writable(file: Path, force: bool) -> None:
    """Say before anything is run that the page could not be written.

    Raises:
        UsageError: it cannot be, or it would replace a file that is no page of ours.
    """
    folder = file.parent
    if file.is_dir():
        raise UsageError(f"`{file}` is a folder; `--html` names a file")
    if not folder.is_dir():
        raise UsageError(f"`{file}` cannot be written: there is no folder `{folder}`")
    if not os.access(folder, os.W_OK):
        raise UsageError(
            f"`{file}` cannot be written: its folder is read-only; `--html FILE` names another"
        )
    with contextlib.suppress(FileNotFoundError):
        if not force and not is_ours(file):
            raise UsageError(
                f"`{file}` is there already, and no page of this demo; `--force` writes over it"
            )


def save(page: Page, file: Path) -> None:
    """Write the page.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        write_whole(page.text, file)
    except OSError as error:
        raise UsageError(f"`{file}` cannot be written: {error.strerror}") from error


def print_end(told: Sequence[Told], page: Page, file: Path) -> None:
    """A line for each story, and where the page is."""
    typer.echo("\n".join(one.summary for one in told), color=True)
    typer.echo(f"\nwritten to {shown_path(str(file.absolute()))}")
    if not page.has_pictures:
        typer.echo(
            "it has tables of numbers in place of pictures, for matplotlib is not installed: "
            "pip install 'lossproof[plots]'"
        )
