"""The mutation study: ``python -m benchmarks mutation`` (``--help`` lists the options)."""

from __future__ import annotations

import collections
import enum
import random
from dataclasses import asdict
from typing import Annotated, Any

import typer

from benchmarks.harness import results
from benchmarks.harness.journal import Journal, progress, work_through
from benchmarks.mutation import tables
from benchmarks.mutation.build import PER_SUBJECT, Case, all_cases, chosen, write
from benchmarks.mutation.catalogue import Subject, subjects
from benchmarks.mutation.examine import Task, examine, judge, prepare
from benchmarks.mutation.truth import EQUIVALENT, REAL, SECOND_ORDER, SPECIAL_POINT
from benchmarks.studies import write_pages_of

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
    spot: Annotated[int, typer.Option(help="Show so many named causes, drawn by lot.")] = 0,
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
    digest = results.source_digest()
    journal = Journal(JOURNAL, f"{digest} peers={peers}", fresh=fresh)
    answers = work_through(
        tasks, examine, journal, workers=workers, prepare=prepare, description="checking"
    )
    results.refuse_if_changed(digest)
    data = _study(wanted, cases, answers, per, peers)
    print(_summary(data["figures"]))
    if show:
        _show(data["records"])
    _spot_check(data["records"], spot)
    if len(wanted) == len(subjects()) and peers:
        records = [_published(record) for record in data.pop("records")]
        print(results.save_records("mutation", records))
        print(results.save("mutation", data))
        write_pages_of("mutation")


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
    quiet = [
        case for case in cases if case.truth.label in (EQUIVALENT, SECOND_ORDER, SPECIAL_POINT)
    ]
    for case in [*chosen(cases, per), *quiet]:
        mutant = case.mutant
        info = {
            "key": mutant.key, "label": case.truth.label, "subject": mutant.subject,
            "split": mutant.split, "kind": mutant.kind, "line": mutant.line,
            "before": mutant.before, "after": mutant.after, "visible": case.truth.visible,
            "relations": [[asdict(r) for r in true] for true in case.truth.relations],
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
    dropped = {"unproved", "seconds", "findings", "codes"}
    if record["split"] == "holdout":
        dropped |= {"before", "after", "line"}
    findings = [{k: f[k] for k in ("code", "cause")} for f in record["findings"]]
    return {**{k: v for k, v in record.items() if k not in dropped}, "findings": findings}


def _summary(figures: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = [f"mutants made: {figures['labels']}"]
    for name, g in [*figures["by_split"].items(), ("all", figures["total"])]:
        shares = {
            "found": g["found"] / g["mutants"],
            "cause named": g["named"] / g["mutants"],
            "of those right": g["right"] / max(g["named"], 1),
            "simplest said": g["simplest"] / max(g["with_simplest"], 1),
            "line": g["line_given"] / g["mutants"],
            "mutated line": g["line_exact"] / g["mutants"],
            "gradcheck slow": g["gradcheck_slow"] / g["mutants"],
            "fast": g["gradcheck_fast"] / g["mutants"],
        }
        told = ", ".join(f"{word} {100 * part:.1f} %" for word, part in shares.items())
        lines.append(f"{name}: {g['mutants']} real; {told}; contradicted {g['contradicted']}")
    for name, g in [*figures["false_alarms"].items(), *figures["besides"].items()]:
        lines.append(f"{name}: {g['checked']}; on the gradient {g['gradient']}; {g['codes']}")
    lines.append(f"median {figures['median_seconds']} s; errors of the check {figures['errors']}")
    return "\n".join(lines)


def _show(records: list[dict[str, Any]]) -> None:
    """The design set's failures, one a line; those of the backwards put aside stay unseen."""
    shown: dict[str, None] = {}
    for record in records:
        if record["split"] == "holdout":
            continue
        where = f"{record['subject']}:{record.get('line', '')} {record.get('kind', '')}"
        change = f"{record.get('before', '')}  ->  {record.get('after', '')}"
        shown.update({f"{p}: {where}: {change}": None for p in _problems(record)})
    print("\n".join(shown))


def _spot_check(records: list[dict[str, Any]], count: int) -> None:
    """What was said of some mutants of the design set, for a reader to judge."""
    named = [r for r in records if r["label"] == REAL and r["split"] == "design" and r["named"]]
    for record in random.Random(0).sample(named, min(count, len(named))):
        print(f"\n{record['subject']}:{record['line']} ({record['kind']})")
        print(f"   was {record['before']}\n   is  {record['after']}")
        for finding in record["findings"]:
            print(f"   {finding['code']} {finding['cause']}: {finding['message']}")


def _problems(record: dict[str, Any]) -> list[str]:
    findings = [(f["code"], f["cause"]) for f in record["findings"] if f["code"] != "LP101"]
    if "error" in record:
        return [f"ERROR {record['error']}"]
    if record["label"] == REAL:
        checks = {
            "NOT FOUND": not record["found"],
            f"UNNAMED {findings}": record["found"] and not record["named"],
            f"DISAGREES {record['causes']}": record["named"] and not record["agrees"],
            f"CONTRADICTED {record['contradicted']}": bool(record["contradicted"]),
        }
        return [name for name, holds in checks.items() if holds]
    if record["label"] in (SECOND_ORDER, SPECIAL_POINT):
        return [] if findings else [f"NOT FOUND ({record['label']})"]
    return [f"FALSE ALARM {record['label']} {findings}"] if findings else []
