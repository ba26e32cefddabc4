"""The page of a study, and the tables that a study's own page may use, from its results alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.harness import results
from benchmarks.harness.figures import Summary
from benchmarks.harness.plots import Picture, bars
from benchmarks.harness.study import WHOLE

Entry = dict[str, Any]
HOW = (
    "Processor time of one thread, forward and backward. Every method has a process of its own, "
    "which is woken when it is its turn; a quotient is the median of the rounds' quotients, with "
    "its quartiles. *Live* is the most that torch's tensors held above the start of a step, by "
    "torch's own count; *resident* is the system's view of the same in a new process; MB are of "
    "2^20 bytes."
)


def page(title: str, asks: str, data: Entry) -> Iterable[str | Picture]:
    """The page of a study that has none of its own."""
    yield f"# {title}"
    yield asks
    yield HOW
    yield from setting(data)
    for case in data["cases"]:
        yield f"## {case['case']}"
        yield case_table(case, data)
        yield from remarks(case)
    yield from pictures(data)
    yield again(data)


def setting(data: Entry) -> Iterable[str]:
    """Where the figures come from, and what was not there."""
    yield results.setting(data)
    if data["versions"]:
        yield "Versions: " + ", ".join(f"{k} {v}" for k, v in data["versions"].items()) + "."
    if data["absent"]:
        yield "Not installed, so left out: " + ", ".join(data["absent"]) + "."


def again(data: Entry) -> str:
    """The command that makes the figures."""
    return f"`python -m benchmarks {data['study']}` makes this page."


def case_table(case: Entry, data: Entry, phase: str = WHOLE) -> str:
    """All methods of one case, a row each."""
    columns: dict[str, list[str]] = {
        "ms (quartiles)": [],
        f"over {case.get('baseline', data['baseline'])}": [],
        "over fastest peer": [],
        "wall ms": [],
        "live MB": [],
        "left MB": [],
        "resident MB": [],
    }
    names = list(dict.fromkeys(k for m in case["methods"].values() for k in m.get("facts", ())))
    columns |= {name: [] for name in names}
    for figures in case["methods"].values():
        cells = (
            spread(figures, "processor_ms", phase),
            spread(figures, "ratio", phase),
            over_fastest_peer(figures),
            number(figures.get("wall_ms", {}).get(phase, {}).get("median")),
            *(number(figures.get(key)) for key in ("live_mb", "left_mb", "resident_mb")),
            *(fact(figures.get("facts", {}).get(name)) for name in names),
        )
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return of_columns("method", list(case["methods"]), columns)


def of_columns(title: str, names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str:
    """A table of columns, by their titles; those with nothing to show are left out."""
    shown = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    return results.table((title, *shown), zip(names, *shown.values(), strict=True))


def ratio_table(cases: Sequence[Entry], titles: Sequence[str], phase: str = WHOLE) -> str:
    """Quotients over the baseline: a row for each method, a column for each case."""
    return across(cases, titles, lambda figures: spread(figures, "ratio", phase))


def memory_table(cases: Sequence[Entry], titles: Sequence[str], key: str = "live_mb") -> str:
    """MB: a row for each method, a column for each case."""
    return across(cases, titles, lambda figures: number(figures.get(key)))


def across(cases: Sequence[Entry], titles: Sequence[str], cell: Any) -> str:
    """A row for each method, a column for each case."""
    names = dict.fromkeys(name for case in cases for name in case["methods"])
    rows = []
    for name in names:
        entries = [case["methods"].get(name) for case in cases]
        rows.append((name, *("-" if entry is None else _or_why(entry, cell) for entry in entries)))
    return results.table(("method", *titles), rows)


def _or_why(entry: Entry, cell: Any) -> str:
    if "failed" in entry:
        return "fails"
    return "not run" if "not_run" in entry else cell(entry)


def remarks(case: Entry) -> Iterable[str]:
    """Why methods have no figures."""
    lines = []
    for name, entry in case["methods"].items():
        if "failed" in entry:
            lines.append(f"- {name} fails: `{entry['failed']}`")
        if "left_out" in entry:
            lines.append(f"- {name} is left out: {entry['left_out']}")
        if "not_run" in entry:
            lines.append(f"- {name} was not run: it {entry['not_run']}")
    if lines:
        yield "\n".join(lines)


def pictures(data: Entry) -> Iterable[Picture]:
    """Times and memory of all cases, as far as they were measured."""
    for key, title in (("ratio", f"time over {data['baseline']}"), ("live_mb", "live MB")):
        if any(key in entry for case in data["cases"] for entry in case["methods"].values()):
            yield bars(data, key, title)


def spread(figures: Entry, key: str, phase: str = WHOLE) -> str:
    """Median and quartiles."""
    return shown(figures.get(key, {}).get(phase))


def over_fastest_peer(figures: Entry) -> str:
    """Our time over that of the fastest peer, and which it is."""
    found = figures.get("over_fastest_peer")
    return "-" if found is None else f"{shown(found)}, {found['peer']}"


def shown(found: Summary | None) -> str:
    """Median and quartiles, if those are known."""
    if found is None:
        return "-"
    if "quartiles" not in found:
        return number(found["median"])
    low, high = (number(q) for q in found["quartiles"])
    return f"{number(found['median'])} ({low} - {high})"


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".removesuffix(".")


def fact(value: Any) -> str:
    """What a step tells of itself."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
