"""The mutation study: ``python -m benchmarks.mutation.run`` (``--help`` lists the options)."""

from __future__ import annotations

import collections
import enum
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.journal import Journal, progress, work_through
from benchmarks.mutation import tables
from benchmarks.mutation.build import PER_SUBJECT, Case, all_cases, chosen, write
from benchmarks.mutation.catalogue import Subject, subjects
from benchmarks.mutation.examine import Task, examine, judge, prepare
from benchmarks.mutation.truth import EQUIVALENT, REAL, SECOND_ORDER

UNCHANGED = "unchanged"
SEEDS_UNCHANGED = range(10)
JOURNAL = results.RESULTS / ".mutation.jsonl"


class Split(str, enum.Enum):
    """Which backwards."""

    all = "all"
    design = "design"
    holdout = "holdout"


def main(
    split: Annotated[Split, typer.Option(help="Which backwards to study.")] = Split.all,
    subject: Annotated[list[str] | None, typer.Option(help="Only this backward.")] = None,
    per_subject: Annotated[
        int, typer.Option(help="Real mutants of each backward that are checked; 0 means all.")
    ] = PER_SUBJECT,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    fresh: Annotated[bool, typer.Option(help="Forget what an earlier run has done.")] = False,
    peers: Annotated[bool, typer.Option(help="Run torch's gradcheck too.")] = True,
    show: Annotated[bool, typer.Option(help="List what was not found or not named.")] = False,
) -> None:
    """Check the mutants; a run over everything writes the results and their page."""
    prepare()
    per = per_subject or None
    wanted = [s for s in subjects(split.value) if not subject or s.name in subject]
    if not wanted:
        raise typer.BadParameter(f"no backward of `{split.value}` is called {subject}")
    cases = _classified(wanted)
    tasks = _tasks(wanted, cases, per, peers)
    # A task's answer holds for one state of the library, with or without the peers.
    journal = Journal(JOURNAL, f"{results.source_digest()} peers={peers}", fresh=fresh)
    answers = work_through(
        tasks, examine, journal, workers=workers, prepare=prepare, description="checking"
    )
    data = _study(wanted, cases, answers, per, peers)
    Console().print(_summary(data["figures"]))
    if show:
        _show(data["records"])
    if len(wanted) == len(subjects()) and peers:
        data["records"] = [_published(record) for record in data["records"]]
        print(results.save("mutation", data))
        print(results.save_page("mutation", tables.page(data)))


def _classified(wanted: list[Subject]) -> list[Case]:
    with progress() as bar:
        shown = bar.add_task("classifying", total=len(wanted))
        return all_cases(wanted, done=lambda _: bar.advance(shown))


def _tasks(wanted: list[Subject], cases: list[Case], per: int | None, peers: bool) -> list[Task]:
    tasks = [
        Task(str(s.path), {"key": s.name, "label": UNCHANGED, "subject": s.name, "split": s.split},
             seed, peers)
        for s in wanted
        for seed in SEEDS_UNCHANGED
    ]  # fmt: skip
    quiet = [case for case in cases if case.truth.label in (EQUIVALENT, SECOND_ORDER)]
    for case in [*chosen(cases, per), *quiet]:
        mutant = case.mutant
        info = {
            "key": mutant.key, "label": case.truth.label, "subject": mutant.subject,
            "split": mutant.split, "kind": mutant.kind, "line": mutant.line,
            "before": mutant.before, "after": mutant.after, "visible": case.truth.visible,
            "relations": [r and asdict(r) for r in case.truth.relations],
        }  # fmt: skip
        tasks.append(Task(str(write(mutant)), info, peers=peers))
    return tasks


def _study(
    wanted: list[Subject],
    cases: list[Case],
    answers: list[dict[str, Any]],
    per: int | None,
    peers: bool,
) -> dict[str, Any]:
    usual: dict[str, set[str]] = {s.name: set() for s in wanted}
    for answer in answers:
        if answer["label"] == UNCHANGED:
            usual[answer["subject"]].update(f["code"] for f in answer["findings"])
    records = []
    for answer in answers:
        verdict = judge(answer, usual[answer["subject"]]) if answer["label"] == REAL else {}
        absent = {} if peers else {"gradcheck_slow": None, "gradcheck_fast": None}
        records.append({**absent, **answer, **verdict})
    labels = collections.Counter(case.truth.label for case in cases)
    return {
        "machine": results.machine(),
        "backwards": len(wanted),
        "per_subject": per,
        "figures": tables.figures(records, dict(labels)),
        "records": records,
    }


def _published(record: dict[str, Any]) -> dict[str, Any]:
    """What the results file keeps: of the backwards put aside, nothing that shows their text."""
    hidden = {"before", "after", "line", "findings"} if record["split"] == "holdout" else set()
    kept = {k: v for k, v in record.items() if k not in hidden}
    if "findings" in kept:
        kept["findings"] = [{k: f[k] for k in ("code", "cause", "line")} for f in kept["findings"]]
    return kept


def _summary(figures: dict[str, Any]) -> Table:
    table = Table(title=f"real mutants of {figures['labels']}")
    for column in tables.HEADER:
        table.add_column(column)
    for name, group in [*figures["by_split"].items(), ("all", figures["total"])]:
        table.add_row(*map(str, tables.row(name, group)))
    for label, group in [*figures["false_alarms"].items(), ("second", figures["second_order"])]:
        table.add_row(label, str(group["checked"]), f"{group['gradient']}", str(group["codes"]))
    return table


def _show(records: list[dict[str, Any]]) -> None:
    """The design set's failures, one a line; those of the backwards put aside stay unseen."""
    for record in records:
        if record["split"] == "holdout":
            continue
        where = f"{record['subject']}:{record.get('line', '')} {record.get('kind', '')}"
        change = f"{record.get('before', '')}  ->  {record.get('after', '')}"
        for problem in _problems(record):
            print(f"{problem}: {where}: {change}")


def _problems(record: dict[str, Any]) -> list[str]:
    findings = [(f["code"], f["cause"]) for f in record["findings"]]
    if "error" in record:
        return [f"ERROR {record['error']}"]
    if record["label"] == REAL:
        checks = {
            "NOT FOUND": not record["found"],
            f"UNNAMED {findings}": record["found"] and not record["named"],
            f"DISAGREES {record['implied']} {record['causes']}": record["agrees"] is False
            and record["named"],
            f"CONTRADICTED {record['contradicted']}": bool(record["contradicted"]),
        }
        return [name for name, holds in checks.items() if holds]
    if record["label"] == SECOND_ORDER:
        return [] if findings else ["NOT FOUND (second order)"]
    return [f"FALSE ALARM {record['label']} {findings}"] if findings else []


if __name__ == "__main__":
    typer.run(main)
