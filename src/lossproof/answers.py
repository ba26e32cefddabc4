"""What the commands do once they know what is wanted: check one loss or many, print the answer.

The answer goes to standard output, and the exit code says it, too.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import typer

from lossproof.console import NO_VERDICT, bar, color, spinner, width
from lossproof.show.formats import Format

if TYPE_CHECKING:
    from lossproof.checks.configuration import Configuration
    from lossproof.checks.discovery import Discovery
    from lossproof.checks.process import Job
    from lossproof.checks.report import Report
    from lossproof.checks.sweep import Sweep

RUNS = "LP408"
"""The rule that is proved by a loss that runs at all."""


class Show(NamedTuple):
    """How the answer is given."""

    form: Format
    html: Path | None
    verbose: bool
    quiet: bool
    exit_zero: bool

    def code(self, reports: Sequence[Report]) -> int:
        """The exit code that says what came of it."""
        if reports and all(report.not_checked is not None for report in reports):
            return NO_VERDICT
        return int(any(report.findings for report in reports) and not self.exit_zero)


def check_one(job: Job, configuration: Configuration, show: Show) -> NoReturn:
    """Check the loss that was named, and end with the exit code."""
    from lossproof.checks import process
    from lossproof.checks.discovery import discover
    from lossproof.checks.report import Report
    from lossproof.checks.sweep import tasks_for
    from lossproof.show import json

    found = discover([job.target], root=configuration.root)
    (task,) = tasks_for(found, configuration, job)
    with spinner(f"checking {job.target}", show.quiet):
        report = process.run_isolated(task.job)
    assert isinstance(report, Report)
    report = report.replace(reproduce=command_of(task.job))
    _write_html([report], show.html)
    if show.form is Format.JSON:
        _print(json.render(report))
    else:
        _print(text_of([report], show.form, show.verbose, show.quiet))
    raise typer.Exit(show.code([report]))


def check_all(
    targets: Sequence[str],
    job: Job,
    configuration: Configuration,
    parallel: int | None,
    cached: bool,
    show: Show,
) -> NoReturn:
    """Check every loss that the targets hold, and end with the exit code."""
    from lossproof.checks.cache import Cache
    from lossproof.checks.discovery import discover
    from lossproof.checks.sweep import cores, sweep, tasks_for, unreadable

    found = discover(targets, root=configuration.root, exclude=configuration.exclude)
    parallel = parallel or cores()
    job = replace(job, show_output=show.verbose)  # of many losses nobody could tell whose it is
    tasks = tasks_for(found, configuration, job, parallel)
    if not tasks and not found.unreadable:
        nothing_to_check(targets, show)
    cache = Cache(configuration.root) if cached else None
    with bar(len(tasks), show.quiet) as advance:
        done = sweep(tasks, parallel=parallel, cache=cache, on_done=advance)
    made = zip(done.tasks, done.reports, strict=True)
    reports = [report.replace(reproduce=command_of(task.job)) for task, report in made]
    reports = [*unreadable(found, job.seed), *reports]
    if cache is not None and cache.trouble is not None and not show.quiet:
        typer.echo(f"note: {cache.trouble}", err=True)
    _write_html(reports, show.html)
    if show.form is Format.FULL:
        _print(_sweep_text(done, reports, show))
    else:
        _print(text_of(reports, show.form, show.verbose, show.quiet))
    if done.interrupted:
        raise KeyboardInterrupt
    raise typer.Exit(show.code(reports))


def nothing_to_check(targets: Sequence[str], show: Show | None) -> NoReturn:
    """A file may well hold no loss, as hooks that name every changed file know; a project may not.

    Programs get an empty report in their format all the same.
    """
    files = show is not None and all(map(os.path.isfile, targets))
    places = ", ".join(f"`{target}`" for target in targets[:3]) + ", ..." * (len(targets) > 3)
    if not (files and show is not None and show.quiet):
        typer.echo(
            f"{'note' if files else 'error'}: no loss was found in {places}; one that is not told "
            "by its name can be named: `lossproof check FILE.py:NAME`",
            err=True,
        )
    if show is not None:
        _write_html([], show.html)
        if show.form is not Format.FULL:
            _print(text_of([], show.form, show.verbose, show.quiet))
    raise typer.Exit(0 if files else NO_VERDICT)


def _write_html(reports: Sequence[Report], file: Path | None) -> None:
    if file is None:
        return
    from lossproof.errors import UsageError
    from lossproof.show.html import write

    try:
        write(reports, file)
    except OSError as error:
        raise UsageError(f"`{file}` cannot be written: {error.strerror}") from error


def _print(text: str) -> None:
    if text:
        typer.echo(text, color=True)


def _sweep_text(done: Sweep, reports: Sequence[Report], show: Show) -> str:
    from lossproof.show import sweep

    remarks = [f"{done.from_cache} unchanged since the last time"] if done.from_cache else []
    remarks += [f"{done.left_over} left over"] if done.left_over else []
    remarks.append(f"{done.seconds:.1f} s")
    return sweep.render(
        reports, color=color(), width=width(), verbose=show.verbose, quiet=show.quiet,
        remarks=remarks,
    )  # fmt: skip


def command_of(job: Job) -> str:
    """The command line that does the same job again."""
    words = ["lossproof"]
    words += ["check", job.target] if job.other is None else ["compare", job.target, job.other]
    words += ["--seed", str(job.seed)]
    words += [] if job.inputs is None else ["--inputs", job.inputs]
    words += [] if job.reference is None else ["--reference", job.reference]
    words += ["--select", ",".join(job.select)] if job.select else []
    words += ["--ignore", ",".join(job.ignore)] if job.ignore else []
    return shlex.join(words)


def text_of(reports: Sequence[Report], form: Format, verbose: bool, quiet: bool) -> str:
    """Reports in a format; for people, one report."""
    if form is Format.FULL:
        from lossproof.show import terminal

        (report,) = reports
        return terminal.render(report, color=color(), width=width(), verbose=verbose, quiet=quiet)
    from lossproof.show import formats

    return formats.render(reports, form)


def test_file(
    found: Discovery, configuration: Configuration, root: Path, file: Path, quiet: bool
) -> str:
    """Run every loss once, to learn what it can be called with, and write the test of them all."""
    from lossproof.checks.process import Job
    from lossproof.checks.sweep import cores, sweep, tasks_for
    from lossproof.errors import UsageError
    from lossproof.show import pytest_file
    from lossproof.show.source import shown_path

    limit = configuration.time_limit or 60.0
    job = Job("", select=(RUNS,), time_limit=limit, show_output=False)
    tasks = tasks_for(found, configuration.without_ignored(), job, cores())
    with bar(len(tasks), quiet) as advance:
        done = sweep(tasks, parallel=cores(), on_done=advance)
    if done.interrupted:
        raise KeyboardInterrupt
    entries, left_out = [], []
    for task, report in zip(done.tasks, done.reports, strict=True):
        place = task.loss.target if task.loss.file is None else task.loss.file
        target = f"{os.path.relpath(place, root).replace(os.sep, '/')}:{task.loss.name}"
        if report.not_checked is not None:
            left_out.append(f"{target}: {report.not_checked}")
            continue
        inputs = report.inferred if task.job.inputs is None else (task.job.inputs,)
        entries.append(pytest_file.Entry(target, inputs))
    if not entries:
        raise UsageError(f"none of {len(tasks)} losses could be run: {left_out[0]}")
    if not quiet:
        typer.echo(
            f"{shown_path(str(file))}: {len(entries)} losses, {len(left_out)} left out; now make "
            "the inputs look like yours"
        )
    return pytest_file.render(
        entries, file=file, root=root, select=configuration.select, ignore=configuration.ignore,
        left_out=left_out,
    )  # fmt: skip
