"""The command line: ``lossproof check``, ``compare``, ``explain``, ``losses``, ``init``, ``demo``.

Results go to standard output, progress and everything that the user's code prints to standard
error. The exit code is 0 if nothing was found or two losses are the same, 1 if there are findings
or they differ, and 2 if there is no verdict: the request was wrong, no loss could be looked at, or
lossproof itself failed. No torch is imported here; a check runs in a process of its own
(:mod:`lossproof.checks.process`).
"""

from __future__ import annotations

import enum
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lossproof
from lossproof.answers import (
    Show,
    check_all,
    check_one,
    command_of,
    nothing_to_check,
    test_file,
    text_of,
)
from lossproof.console import (
    color,
    failures_explained,
    nothing_gets_out,
    on_terminal,
    spinner,
    width,
)
from lossproof.show.formats import Format

if TYPE_CHECKING:
    from lossproof.checks.configuration import Configuration
    from lossproof.losses.catalogue import CatalogueEntry
    from lossproof.losses.torch_nn import TorchLoss

app = typer.Typer(
    help="Find out whether a PyTorch loss is right, and if not, what is wrong with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ComparisonFormat(str, enum.Enum):
    """How a comparison is written."""

    FULL = "full"
    JSON = "json"


Inputs = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help='What the loss is called with, such as "float[8,10], int[8]<10". Without it, a '
        "function beside the loss gives the inputs: NAME_inputs() or inputs(); else they are "
        "inferred.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**32 - 1,
        help="Makes every random choice reproducible (default: 0).",
        show_default=False,
    ),
]
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


def _positive(seconds: float | None) -> float | None:
    if seconds is not None and not seconds > 0:
        raise typer.BadParameter("it must be more than 0")
    return seconds


def _no_source(file: Path | None) -> Path | None:
    if file is not None and file.suffix == ".py":  # a slip that would cost somebody a file
        raise typer.BadParameter(f"`{file}` would be Python, and the report is HTML")
    return file


TimeLimit = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        callback=_positive,
        help="How long the check of a loss may take (default: 60).",
        show_default=False,
    ),
]


def _rules(help_text: str) -> Any:
    return typer.Option(metavar="RULES", help=help_text, show_default=False)


def _loss(help_text: str) -> Any:
    return typer.Argument(metavar="TARGET", help=help_text, show_default=False)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack letters that code has
            stream.reconfigure(errors="backslashreplace")
    with nothing_gets_out():
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
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET",
            help="What to check: a loss (FILE.py:NAME or package.module:NAME), or all losses of "
            "a file, a folder, a package.",
            show_default=False,
        ),
    ],
    inputs: Inputs = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="A loss known to be right, to compare with, such as torch.nn:MSELoss.",
            show_default=False,
        ),
    ] = None,
    select: Annotated[
        list[str] | None, _rules("The rules to run: codes, prefixes or names (LP2,overflow).")
    ] = None,
    ignore: Annotated[list[str] | None, _rules("The rules to leave out.")] = None,
    output_format: Annotated[
        Format,
        typer.Option(help="For people; one line per finding; for programs, CI and code scanning."),
    ] = Format.FULL,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=_no_source,
            help="Write the report with its pictures as an HTML file, too.",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
    seed: Seed = None,
    time_limit: TimeLimit = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="How many losses are checked at once (default: one per core).",
            show_default=False,
        ),
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Check every loss again, also where nothing has changed."),
    ] = False,
    exit_zero: ExitZero = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check losses: proof that they are right, or the bug with its cause, line and mend."""
    from lossproof.checks.discovery import names_one_loss
    from lossproof.checks.process import Job
    from lossproof.checks.rule_selection import selected

    with failures_explained(verbose):
        configuration = _configuration(targets[0])
        if select:  # what was asked for now is not ignored because it usually is
            configuration = configuration.without_ignored()
        job = Job(
            targets[0],
            inputs,
            reference,
            seed=_first(seed, configuration.seed, 0),
            time_limit=_first(time_limit, configuration.time_limit, 60.0),
            select=tuple(select or configuration.select),
            ignore=(*configuration.ignore, *(ignore or ())),
            charts=html is not None,
        )
        selected(job.select, job.ignore)  # a typo is told before anything is run
        show = Show(output_format, html, verbose, quiet, exit_zero)
        if len(targets) == 1 and names_one_loss(targets[0]):
            check_one(job, configuration, show)
        parallel = _first(jobs, configuration.jobs, None)
        check_all(targets, job, configuration, parallel, not no_cache, show)


@app.command()
def compare(
    a: Annotated[str, _loss("A loss: FILE.py:NAME or package.module:NAME.")],
    b: Annotated[str, _loss("Another one, such as torch.nn.functional:cross_entropy.")],
    inputs: Inputs = None,
    output_format: Annotated[
        ComparisonFormat, typer.Option(help="Everything side by side, or JSON.")
    ] = ComparisonFormat.FULL,
    seed: Seed = None,
    time_limit: TimeLimit = None,
    exit_zero: ExitZero = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Set two losses side by side: values, gradients, extremes, time and memory."""
    from lossproof.checks import process
    from lossproof.checks.process import Job
    from lossproof.checks.report import Report
    from lossproof.show import comparison, json

    job = Job(a, inputs, other=b, seed=_first(seed, 0), time_limit=_first(time_limit, 60.0))
    with failures_explained(verbose), spinner(f"comparing {a}, {b}", quiet):
        result = process.run_isolated(job)
    if isinstance(result, Report):  # the process died, and this says how
        result = result.replace(reproduce=command_of(job))
        text = (
            json.render(result)
            if output_format is ComparisonFormat.JSON
            else text_of([result], Format.FULL, verbose, quiet)
        )
    elif output_format is ComparisonFormat.JSON:
        text = json.render(result)
    else:
        text = comparison.render(result, color=color(), width=width())
    typer.echo(text, color=True)
    raise typer.Exit(int(not result and not exit_zero))


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
    with failures_explained(verbose=False):
        rule = find_rule(code)
    _show_markdown(f"# {rule.code} {rule.name}\n\n{rule.page}")


@app.command()
def losses(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORDS",
            help="The name of a loss, or words to look for, such as focal.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        ComparisonFormat, typer.Option("--format", help="How the answer is written.")
    ] = ComparisonFormat.FULL,
) -> None:
    """List the losses of the catalogue, look for some, or show one."""
    from lossproof.errors import UsageError
    from lossproof.losses.catalogue import named, nearest, search
    from lossproof.losses.torch_nn import search_torch

    wanted = " ".join(words or ())
    found, of_torch = search(wanted), search_torch(wanted)
    one = named(wanted) or (found[0] if len(found) == 1 and not of_torch else None)
    with failures_explained(verbose=False):
        if not (found or one or of_torch):
            near = ", ".join(f"`{name}`" for name in nearest(wanted))
            hint = f"; near it are {near}" if near else ""
            raise UsageError(f"no loss is called `{wanted}`, or speaks of it{hint}")
    if form is ComparisonFormat.JSON:
        _losses_as_json([one] if one else found)
    elif one is None:
        _list_losses(found, of_torch if words else ())
    else:
        from lossproof.show.loss_page import page

        _show_markdown(page(one))
        others = [entry.name for entry in found if entry is not one]
        others += [loss.qualified_name for loss in of_torch]
        if others:
            typer.echo(f"See also: {', '.join(others)}")


def _list_losses(found: Sequence[CatalogueEntry], of_torch: Sequence[TorchLoss]) -> None:
    from lossproof.losses.catalogue import catalogue
    from lossproof.show.loss_page import listing, torch_listing

    if found:
        typer.echo(listing(found))
        typer.echo(f"\n{len(found)} of {len(catalogue())} losses; lossproof losses NAME shows one")
    if of_torch:
        typer.echo(("\n" if found else "") + torch_listing(of_torch))


def _losses_as_json(entries: Sequence[CatalogueEntry]) -> None:
    import json

    from lossproof.show.loss_page import as_data

    typer.echo(json.dumps([as_data(entry) for entry in entries], indent=2, ensure_ascii=False))


def _show_markdown(text: str) -> None:
    """Print Markdown, drawn where a terminal is there to draw it on."""
    if not on_terminal():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(width(), 100)).print(Markdown(text))


@app.command()
def init(
    path: Annotated[
        Path,
        typer.Argument(help="The project: a folder or a file.", show_default=False, exists=True),
    ] = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write (default: tests/test_losses.py in the project).",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write it also where there is a file already.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a pytest file that checks the losses of a project."""
    from lossproof.checks.configuration import configuration_for
    from lossproof.checks.discovery import discover
    from lossproof.errors import UsageError

    with failures_explained(verbose=False):
        root = (path if path.is_dir() else path.parent).resolve()
        file = Path(os.path.realpath(output or root / "tests" / "test_losses.py"))
        if os.path.lexists(file) and not force:
            raise UsageError(f"`{file}` is there already; `--force` writes over it")
        configuration = configuration_for(path)
        found = discover([str(path)], root=configuration.root, exclude=configuration.exclude)
        if not found.losses:
            nothing_to_check([str(path)], None)
        text = test_file(found, configuration, root, file, quiet)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"`{file}` cannot be written: {error.strerror}") from error


@app.command()
def demo(
    html: Annotated[
        Path, typer.Option(metavar="FILE", help="The page with everything and its pictures.")
    ] = Path("lossproof-demo.html"),
    story: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            max=5,
            help="Tell this story alone, from 1 to 5; may be given several times.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write the page also over a file that is none.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show a line for each story, and no progress.")
    ] = False,
) -> None:
    """Tell five stories by running them: real checks, real training, and a page of it all."""
    with failures_explained(verbose=True):
        from lossproof.demo.command import run

        raise typer.Exit(run(story or (), html, force=force, quiet=quiet))


def _list_rules() -> None:
    from lossproof.checks.rules import RULES

    longest = max(len(rule.name) for rule in RULES.values())
    for rule in RULES.values():
        typer.echo(f"{rule.code}  {rule.name:<{longest}}  {rule.summary}")


def _first(*values: Any) -> Any:
    """The first that was given."""
    return next((value for value in values if value is not None), None)


def _configuration(target: str) -> Configuration:
    """The settings of the project that the first target belongs to."""
    from lossproof.checks.configuration import configuration_for

    place = target if os.path.exists(target) else target.rpartition(":")[0].removesuffix(":")
    return configuration_for(Path(place) if os.path.exists(place) else Path())
