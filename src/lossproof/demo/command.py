"""``lossproof demo``: tell the stories one after the other, then write the page."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lossproof.console import color, steps, width
from lossproof.errors import UsageError

if TYPE_CHECKING:
    from lossproof.demo.story import Outline, Story

STORIES = ("function_or_layer", "catalogue", "linear_regression", "cross_entropy", "composite")
"""The files of the stories, in the order of their numbers."""
PAGE = "lossproof-demo.html"
"""What the page is called where no other name is given."""


def run(numbers: Sequence[int], file: Path, *, force: bool, quiet: bool) -> int:
    """Tell the stories, write the page, and give back the exit code.

    Args:
        numbers: which stories, from 1; without any, all.
        file: the page.
        force: write over a file that is no page of ours.
        quiet: show a line for each story, and no progress.

    Raises:
        UsageError: the page cannot be written.
    """
    must_be_writable(file, force)
    told = []
    for story in tell_all(sorted({*numbers}) or range(1, len(STORIES) + 1), quiet):
        told.append(story)
        if not quiet:
            _print_story(story)
    save(told, file, quiet)
    _print_summary(told, file)
    return int(any(story.missed for story in told))


def tell_all(numbers: Sequence[int], quiet: bool) -> Iterator[Story]:
    """The stories, each as soon as it was told, with progress on standard error."""
    with steps(1, quiet) as show:
        show(0, "loading torch")
        from lossproof.demo.story import tell

        outlines = {number: outline(number) for number in numbers}
    for number, one in outlines.items():
        with steps(len(one.parts), quiet) as show:
            story = tell(one, number, show)
        yield story


def outline(number: int) -> Outline:
    """The story with this number."""
    module = importlib.import_module(f"lossproof.demo.{STORIES[number - 1]}")
    found: Outline = module.OUTLINE
    return found


def must_be_writable(file: Path, force: bool) -> None:
    """Say before anything is run that the page could not be written.

    Raises:
        UsageError: it cannot be, or it would replace a file that is no page of ours.
    """
    from lossproof.demo.page import is_ours

    folder = file.parent
    if file.is_dir():
        raise UsageError(f"`{file}` is a folder; `--html` names a file")
    if not folder.is_dir():
        raise UsageError(f"`{file}` cannot be written: there is no folder `{folder}`")
    if not os.access(folder, os.W_OK):
        raise UsageError(
            f"`{file}` cannot be written: the folder is read-only; `--html FILE` names another"
        )
    with contextlib.suppress(FileNotFoundError):
        if not force and not is_ours(file):
            raise UsageError(
                f"`{file}` is there already, and no page of this demo; `--force` writes over it"
            )


def save(told: Sequence[Story], file: Path, quiet: bool) -> None:
    """Draw the page and write it.

    Raises:
        UsageError: it cannot be written.
    """
    from lossproof.demo.page import render, write

    with steps(1, quiet) as show:
        show(0, "drawing the page")
        text = render(told)
    try:
        write(text, file)
    except OSError as error:
        raise UsageError(f"`{file}` cannot be written: {error.strerror}") from error


def _print_story(story: Story) -> None:
    from lossproof.demo.terminal import render

    drawn = render(story, len(STORIES), color=color(), width=width())
    typer.echo(f"{drawn}\n", color=True)


def _print_summary(told: Sequence[Story], file: Path) -> None:
    from lossproof.demo.terminal import render_summary
    from lossproof.show.plots import can_draw
    from lossproof.show.source import shown_path

    typer.echo(render_summary(told, color=color(), width=width()), color=True)
    typer.echo(f"\nwritten to {shown_path(str(file.absolute()))}")
    if not can_draw():
        typer.echo(
            "its pictures are tables of numbers, for matplotlib is not installed: "
            "pip install 'lossproof[plots]'"
        )
