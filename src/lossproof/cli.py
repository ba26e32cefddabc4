"""The command line: ``lossproof check``, ``lossproof compare``, ``lossproof explain``.

Results go to standard output, progress and everything that the user's code prints to standard
error. The exit code is 0 if nothing was found or two losses are the same, 1 if there are findings
or they differ, and 2 if there is no verdict: the request was wrong, or lossproof itself failed. No
torch is imported here; a check runs in a process of its own (:mod:`lossproof.checks.process`).
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
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import lossproof

if TYPE_CHECKING:
    from lossproof.checks.comparison import Comparison
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


class ComparisonFormat(str, enum.Enum):
    """How a comparison is written."""

    FULL = "full"
    JSON = "json"


Inputs = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help='What the loss is called with, such as "float[8,10], int[8]<10". Without it, a '
        "function beside the loss gives the inputs: NAME_inputs() or inputs().",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Makes every random choice reproducible.")]
ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit with 0 also if something was found.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Show all limits and exemptions, and internal tracebacks."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show findings alone, and no progress.")]


def _positive(seconds: float) -> float:
    if not seconds > 0:
        raise typer.BadParameter("it must be more than 0")
    return seconds


TimeLimit = Annotated[
    float,
    typer.Option(metavar="SECONDS", callback=_positive, help="How long the check may take."),
]


def _loss(help_text: str) -> Any:
    return typer.Argument(metavar="TARGET", help=help_text, show_default=False)


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
    target: Annotated[str, _loss("The loss: FILE.py:NAME or package.module:NAME.")],
    inputs: Inputs = None,
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
    seed: Seed = 0,
    time_limit: TimeLimit = 60.0,
    exit_zero: ExitZero = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check a loss: proof that it is right, or the bug with its cause, line and mend."""
    from lossproof.checks.process import Job

    job = Job(target, inputs, reference, seed=seed, time_limit=time_limit)
    _answer(job, output_format, exit_zero, verbose, quiet)


@app.command()
def compare(
    a: Annotated[str, _loss("A loss: FILE.py:NAME or package.module:NAME.")],
    b: Annotated[str, _loss("Another one, such as torch.nn.functional:cross_entropy.")],
    inputs: Inputs = None,
    output_format: Annotated[
        ComparisonFormat, typer.Option(help="Everything side by side, or JSON.")
    ] = ComparisonFormat.FULL,
    seed: Seed = 0,
    time_limit: TimeLimit = 60.0,
    exit_zero: ExitZero = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Set two losses side by side: values, gradients, extremes, time and memory."""
    from lossproof.checks.process import Job

    job = Job(a, inputs, other=b, seed=seed, time_limit=time_limit)
    _answer(job, Format(output_format.value), exit_zero, verbose, quiet)


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


def _answer(job: Job, form: Format, exit_zero: bool, verbose: bool, quiet: bool) -> NoReturn:
    """Run the job, print what came of it, and end with the exit code that says it, too."""
    from lossproof.checks import process
    from lossproof.checks.report import Report

    what = f"checking {job.target}" if job.other is None else f"comparing {job.target}, {job.other}"
    with _failures_explained(verbose), _progress(what, quiet):
        result = process.run_isolated(job)
    if isinstance(result, Report):
        result = result.replace(reproduce=_command(job))
    text = _text(result, form, verbose, quiet)
    if text:
        typer.echo(text, color=True)
    raise typer.Exit(int(not result and not exit_zero))


def _command(job: Job) -> str:
    """The command line that does the same job again."""
    words = ["lossproof"]
    words += ["check", job.target] if job.other is None else ["compare", job.target, job.other]
    words += ["--seed", str(job.seed)]
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


def _text(result: Report | Comparison, form: Format, verbose: bool, quiet: bool) -> str:
    from lossproof.checks.report import Report
    from lossproof.show import concise, json, terminal

    if form is Format.JSON:
        return json.render(result)
    if not isinstance(result, Report):
        from lossproof.show import comparison

        return comparison.render(result, color=_color(), width=_width())
    if form is Format.CONCISE:
        return concise.render(result)
    return terminal.render(result, color=_color(), width=_width(), verbose=verbose, quiet=quiet)


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
