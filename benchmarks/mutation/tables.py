"""The figures of the mutation study: counted from the records, drawn as markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from benchmarks.harness.results import setting, share, table
from benchmarks.mutation.examine import is_of_the_gradient

Record = dict[str, Any]

HEADER = [
    "", "mutants", "found", "cause named", "of those right", "simplest cause said",
    "cause contradicted", "line given", "the mutated line", "gradcheck slow", "gradcheck fast",
]  # fmt: skip


def count(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of a group of real mutants."""
    known = [r for r in records if r["simplest"] is not None]
    return {
        "mutants": len(records),
        "found": _sum(records, "found"),
        "named": _sum(records, "named"),
        "right": _sum([r for r in records if r["named"]], "agrees"),
        "with_simplest": len(known),
        "simplest": _sum(known, "simplest"),
        "contradicted": sum(bool(r["contradicted"]) for r in records),
        "line_given": _sum(records, "line_given"),
        "line_exact": _sum(records, "line_exact"),
        "gradcheck_slow": _sum(records, "gradcheck_slow"),
        "gradcheck_fast": _sum(records, "gradcheck_fast"),
    }


def _sum(records: Iterable[Record], key: str) -> int:
    return sum(bool(r[key]) for r in records)


def groups(records: Sequence[Record], by: Callable[[Record], str]) -> dict[str, dict[str, Any]]:
    """The figures by group, in the order of the names."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(by(record), []).append(record)
    return {name: count(found[name]) for name in sorted(found)}


def figures(records: Sequence[Record], labels: dict[str, int]) -> dict[str, Any]:
    """Everything that the page shows."""
    real = [r for r in records if r["label"] == "real"]
    seconds = [r["seconds"] for r in records if "seconds" in r]
    return {
        "labels": labels,
        "total": count(real),
        "hidden": count([r for r in real if not r["visible"]]),
        "by_split": groups(real, lambda r: r["split"]),
        "by_kind": groups(real, lambda r: r["kind"]),
        "by_subject": groups(real, lambda r: f"{r['subject']} ({r['split']})"),
        "codes": _codes(real),
        "causes_by_kind": _causes(real),
        "false_alarms": {
            label: _alarms([r for r in records if r["label"] == label])
            for label in ("unchanged", "equivalent")
        },
        "besides": {
            label: _alarms([r for r in records if r["label"] == label])
            for label in ("second-order", "special-point")
        },
        "errors": sum("error" in r for r in records),
        "median_seconds": round(median(seconds), 4) if seconds else None,
    }


def _codes(records: Sequence[Record]) -> dict[str, int]:
    codes = [code for r in records for code in r["codes"]]
    return {code: codes.count(code) for code in sorted(set(codes))}


def _causes(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """For each kind of slip, the causes that were named, the most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        said = set(record["causes"]) or {"found, unnamed" if record["found"] else "not found"}
        counts.setdefault(record["kind"], Counter()).update(said)
    return {kind: dict(counts[kind].most_common()) for kind in sorted(counts)}


def _alarms(records: Sequence[Record]) -> dict[str, Any]:
    """How many of these have a finding in the gradient's rules, and how many in any other.

    LP101 is not counted: that a loss without a reduction is not one number is no false alarm.
    """

    def reported(record: Record, *, gradient: bool) -> bool:
        codes = {finding["code"] for finding in record["findings"]} - {"LP101"}
        return any(is_of_the_gradient(code) is gradient for code in codes)

    codes = [f["code"] for r in records for f in r["findings"]]
    return {
        "checked": len(records),
        "gradient": sum(reported(r, gradient=True) for r in records),
        "other": sum(reported(r, gradient=False) for r in records),
        "codes": {code: codes.count(code) for code in sorted(set(codes))},
        "gradcheck_slow": sum(bool(r.get("gradcheck_slow")) for r in records),
        "gradcheck_fast": sum(bool(r.get("gradcheck_fast")) for r in records),
    }


def page(data: dict[str, Any]) -> list[str]:
    """The study as blocks of markdown."""
    f = data["figures"]
    labels = f["labels"]
    return [
        "# Mutation study",
        "Which wrong backwards does `lossproof.check` find, and does it say why? "
        f"{sum(labels.values())} automatic mutants of {data['backwards']} right, hand-written "
        f"backwards were made: {labels['real']} are real bugs, {labels['equivalent']} change "
        f"nothing, {labels['loud']} raise an error by themselves, {labels['second-order']} are "
        f"wrong only in the derivative of the gradient, and {labels['special-point']} only at a "
        "tie or at zero, where their gradient is not finite. Which is which was decided without "
        "lossproof, by torch's automatic derivative of the same mathematics written another way. "
        f"{f['total']['mutants']} of the real ones, "
        f"{data['per_subject'] or 'all'} of each backward, drawn by lot, were checked. "
        "A third of the backwards (*holdout*) was put aside by lot, and nobody looked at them "
        "while the naming of causes was written.",
        setting(data) + " Again: `python -m benchmarks mutation`.",
        table(HEADER, [*_rows(f["by_split"]), row("**all**", f["total"])]),
        "*Found*: a finding that the unchanged backward does not have. *Of those right*: the cause "
        "says what the wrong gradient is, or which slip was made. *Simplest cause said*: of the "
        "mutants whose gradient is, at all inputs, a constant times the right one, zero, missing, "
        "that of another input, right only for a `grad_output` of one, or its own mean repeated, "
        "those whose cause says so. *Cause contradicted*: the cause says one of these things, and "
        "it is not so. *The mutated line*: it is among the places that the report shows. "
        "*gradcheck*: torch's own, on the same inputs in float64; it names no cause and no line.",
        f"{f['hidden']['mutants']} of the checked mutants are right at the inputs that the check "
        f"was given, and wrong at others of the same kind; {f['hidden']['found']} of them were "
        "found.",
        "## On right backwards",
        table(
            ["", "checks", "with a finding on the gradient", "with another finding",
             "gradcheck slow", "gradcheck fast"],
            [_alarm_row(label, f["false_alarms"][label]) for label in f["false_alarms"]],
        ),
        "Not counted: LP101, which says rightly of a loss without a reduction that it is not one "
        "number.",
        "## Wrong only in the second derivative, or at special points",
        table(
            ["", "checks", "found by a rule of the gradient", "by another",
             "gradcheck slow", "gradcheck fast"],
            [_alarm_row(label, f["besides"][label]) for label in f["besides"]],
        ),
        "## By kind of slip",
        table(HEADER, _rows(f["by_kind"])),
        table(
            ["kind", "causes named"],
            [
                [kind, ", ".join(f"{cause} {n}" for cause, n in causes.items())]
                for kind, causes in f["causes_by_kind"].items()
            ],
        ),
        "## By loss",
        table(HEADER, _rows(f["by_subject"])),
        f"A check took {f['median_seconds']} s in the median; {f['errors']} checks failed with an "
        "error of their own.",
    ]  # fmt: skip


def _rows(by_name: dict[str, dict[str, Any]]) -> list[list[Any]]:
    return [row(name, group) for name, group in by_name.items()]


def row(name: str, g: dict[str, Any]) -> list[Any]:
    whole = g["mutants"]
    return [
        name, whole, share(g["found"], whole), share(g["named"], whole),
        share(g["right"], g["named"]), share(g["simplest"], g["with_simplest"]),
        g["contradicted"], share(g["line_given"], whole),
        share(g["line_exact"], whole), share(g["gradcheck_slow"], whole),
        share(g["gradcheck_fast"], whole),
    ]  # fmt: skip


def _alarm_row(name: str, group: dict[str, Any]) -> list[Any]:
    return [
        name, group["checked"], group["gradient"], group["other"],
        group["gradcheck_slow"], group["gradcheck_fast"],
    ]  # fmt: skip
