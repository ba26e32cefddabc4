"""``python -m benchmarks``: all studies; with a name: run one; with ``--pages``: make all pages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import studies
from benchmarks.harness import results, run, tables
from benchmarks.harness.journal import ON_STDERR, Journal
from benchmarks.harness.study import Study

NAME = "python -m benchmarks"


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments say."""
    name, *rest = arguments or [""]
    if name == "--pages":
        for page in (*studies.pages(), *studies.PICTURES):
            print(page.write() or f"{page.name}: not run yet")
        return
    if name in ("", "--help", "-h"):
        _list()
        return
    commands = {command.name: command for command in studies.COMMANDS}
    if name in commands:
        _call(name, commands[name].main(), rest)
        return
    study = studies.measured().get(name)
    if study is None:
        ON_STDERR.print(f"there is no study `{name}`; `{NAME}` lists all")
        raise SystemExit(2)
    _call(name, command_of(study), rest)


def _list() -> None:
    table = Table("study", "asks", "takes", box=None, pad_edge=False)
    listed = [*studies.COMMANDS, *studies.measured().values()]
    for study in sorted(listed, key=lambda study: study.name):
        table.add_row(study.name, study.asks, study.takes)
    console = Console()
    console.print(table)
    console.print(f"\n{NAME} NAME runs one, with --help lists its options;")
    console.print(f"{NAME} --pages makes all pages from what is in benchmarks/results.")


def _call(name: str, function: Callable[..., None], rest: Sequence[str]) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    app(args=list(rest), prog_name=f"{NAME} {name}")


def command_of(study: Study) -> Callable[..., None]:
    """The command of a study that the harness runs."""

    def measure(
        only: Annotated[str, typer.Option(help="Cases whose name has this.")] = "",
        rounds: Annotated[int, typer.Option(min=0, help="Turns of each; 0: as planned.")] = 0,
        gigabytes: Annotated[
            float, typer.Option(min=0, help="Memory for all processes; 0: 90 % of what is free.")
        ] = 0.0,
        save: Annotated[bool, typer.Option(help="Save even if it is not all.")] = False,
        fresh: Annotated[bool, typer.Option(help="Forget what an earlier run has done.")] = False,
        journal: Annotated[
            Path | None, typer.Option(help="Where the answers are kept until all are there.")
        ] = None,
    ) -> None:
        limit = int(gigabytes * 2**30) if gigabytes else None
        digest = results.source_digest()
        planned = run.Run(study, only=only, rounds=rounds, limit=limit)
        if planned.absent:
            ON_STDERR.print(f"not installed, so left out: {', '.join(planned.absent)}")
        kept = Journal(journal or run.journal_of(study), planned.state, fresh=fresh)
        data = planned.done(kept)
        _show(data)
        failed = run.failures(data)
        for words in failed:
            ON_STDERR.print(f"failed: {words}", markup=False)
        if failed:
            raise SystemExit(1)
        if planned.complete or save:
            results.refuse_if_changed(digest)
            print(results.save(study.name, data))
            studies.write_pages_of(study.name)

    measure.__doc__ = study.asks
    return measure


def _show(data: dict[str, Any]) -> None:
    for case in data["cases"]:
        print(f"\n{case['case']}\n\n{tables.case_table(case, data)}")
        print("".join(f"\n{words}" for words in tables.remarks(case)))


if __name__ == "__main__":
    main(sys.argv[1:])
