"""The command line: ``lossproof check``, ``lossproof explain``.

Results go to standard output, progress and everything that the user's code prints to standard
error. The exit code is 0 if nothing was found, 1 if there are findings, and 2 if there is no
verdict: the request was wrong, or lossproof itself failed. No torch is imported here; a check runs
in a process of its own (:mod:`lossproof.checks.process`).
"""

from __future__ import annotations

import contextlib
import enum
import io
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import lossproof

if TYPE_CHECKING:
    from lossproof.checks.process import Job
    from lossproof.checks.report import Report

NO_VERDICT = 2
INTERRUPTED = 130
"""What a shell reports of a command that Ctrl-C ended: 128 + SIGINT."""

app = typer.Typer(
    help="Find out whether a PyTorch loss is right, and if not, what is wrong with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(str, enum.Enum):
    """How a report is written."""

    FULL = "full"
    CONCISE = "concise"
    JSON = "json"


Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The loss: FILE.py:NAME or package.module:NAME.",
        show_default=False,
    ),
]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack letters that code has
            stream.reconfigure(errors="backslashreplace")
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lossproof {lossproof.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of the command itself; ``--help`` shows the text given to ``app``."""


@app.command()
def check(
    target: Target,
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help='What the loss is called with, such as "float[8,10], int[8]<10". Without it, a '
            "function beside the loss gives the inputs: NAME_inputs() or inputs().",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="A loss known to be right, to compare with, such as torch.nn:MSELoss.",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[
        Format, typer.Option(help="Everything, one line per finding, or JSON.")
    ] = Format.FULL,
    seed: Annotated[int, typer.Option(min=0, help="Makes every random choice reproducible.")] = 0,
    time_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the check may take.")
    ] = 60.0,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit with 0 also if there are findings.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Show all limits and exemptions, and internal tracebacks."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show findings alone, and no progress.")
    ] = False,
) -> None:
    """Check a loss: proof that it is right, or the bug with its cause, line and mend."""
    from lossproof.checks.process import Job

    if not time_limit > 0:
        raise typer.BadParameter("it must be more than 0", param_hint="'--time-limit'")
    job = Job(target, inputs, reference, seed, time_limit)
    with _failures_explained(verbose):
        report = _checked(job, quiet)
    _write(report, output_format, verbose, quiet)
    raise typer.Exit(int(bool(report.findings) and not exit_zero))


@app.command()
def explain(
    code: Annotated[
        str | None,
        typer.Argument(help="A rule's code or name, such as LP203.", show_default=False),
    ] = None,
) -> None:
    """Show a rule's page; without CODE, list all rules."""
    from lossproof.checks.rules import find_rule

    if code is None:
        _list_rules()
        return
    with _failures_explained(verbose=False):
        rule = find_rule(code)
    page = f"# {rule.code} {rule.name}\n\n{rule.page}"
    if not sys.stdout.isatty():
        typer.echo(page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(_width(), 100)).print(Markdown(page))


def _list_rules() -> None:
    from lossproof.checks.rules import RULES

    width = max(len(rule.name) for rule in RULES.values())
    for rule in RULES.values():
        typer.echo(f"{rule.code}  {rule.name:<{width}}  {rule.summary}")


def _checked(job: Job, quiet: bool) -> Report:
    from lossproof.checks.process import check_isolated

    with _progress(f"checking {job.target}", quiet):
        report = check_isolated(job)
    return report.replace(reproduce=_command(job))


def _command(job: Job) -> str:
    """The command line that runs the same check again."""
    words = ["lossproof", "check", job.target, "--seed", str(job.seed)]
    words += [] if job.inputs is None else ["--inputs", job.inputs]
    words += [] if job.reference is None else ["--reference", job.reference]
    return shlex.join(words)


@contextlib.contextmanager
def _progress(what: str, quiet: bool) -> Iterator[None]:
    """A spinner on standard error, where somebody is there to see it."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(what)):
        yield


@contextlib.contextmanager
def _failures_explained(verbose: bool) -> Iterator[None]:
    """Say on standard error why there is no verdict, and end with the exit code for that."""
    from lossproof.checks.process import InternalError
    from lossproof.errors import UsageError

    try:
        yield
    except UsageError as error:
        _give_up(f"error: {error}")
    except InternalError as error:
        advice = "" if verbose else " and the output of the same command with `--verbose`"
        trace = f"{error.traceback}\n" if verbose else ""
        _give_up(
            f"{trace}error: lossproof itself failed: {error}\n"
            "this is a fault of lossproof, not of your loss; please report it with the loss"
            f"{advice}: https://github.com/lossproof/lossproof/issues"
        )
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _give_up(message: str) -> NoReturn:
    from lossproof.show.source import visible

    typer.echo("\n".join(map(visible, message.split("\n"))), err=True)
    raise typer.Exit(NO_VERDICT)


def _write(report: Report, form: Format, verbose: bool, quiet: bool) -> None:
    from lossproof.show import concise, json, terminal

    if form is Format.JSON:
        text = json.render(report)
    elif form is Format.CONCISE:
        text = concise.render(report)
    else:
        text = terminal.render(report, color=_color(), width=_width(), verbose=verbose, quiet=quiet)
    if text:
        typer.echo(text, color=True)


def _color() -> bool:
    """Whether to use colours: https://no-color.org and https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _width() -> int:
    """The terminal's width, within what reads well; 100 where there is no terminal."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 120))
