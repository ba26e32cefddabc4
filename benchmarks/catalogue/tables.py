"""The figures of the battery, its page, and the summary that is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.catalogue.battery import COMMON
from benchmarks.harness import results

Answer = dict[str, Any]
OURS = "lossproof"
AGREE = 1e-6
"""The largest relative difference between two values of one definition."""


def figures(answers: Iterable[Answer]) -> dict[str, Any]:
    """Count the answers."""
    listed = list(answers)
    names = dict.fromkeys(answer["library"] for answer in listed)
    copies = [answer for answer in listed if answer["library"] != OURS]
    return {
        "libraries": {
            name: _counts([answer for answer in listed if answer["library"] == name])
            for name in names
        },
        "copies": _counts(copies),
        "contract": _contract([answer for answer in listed if answer["library"] == OURS]),
        "failures": [
            [a["library"], a["loss"], a["name"], [k for k, v in a["common"].items() if v]]
            for a in listed
            if any(a["common"].values())
        ],
        "values": _values(copies),
    }


def _counts(answers: Sequence[Answer]) -> dict[str, Any]:
    answers = [answer for answer in answers if answer["common"]]  # others are only compared
    return {
        "losses": len(answers),
        "with_failure": sum(any(a["common"].values()) for a in answers),
        "checks": sum(len(a["common"]) for a in answers),
        "failed": sum(v is not None for a in answers for v in a["common"].values()),
        "failed_besides_no_items": sum(
            v is not None and name != "no items" for a in answers for name, v in a["common"].items()
        ),
        "by_check": {
            check: [
                sum(a["common"].get(check) is not None for a in answers),
                sum(check in a["common"] for a in answers),
            ]
            for check in COMMON
        },
    }


def _contract(answers: Sequence[Answer]) -> dict[str, int]:
    return {
        "checks": sum(len(a["contract"]) for a in answers),
        "failed": sum(v is not None for a in answers for v in a["contract"].values()),
    }


def _values(copies: Sequence[Answer]) -> dict[str, Any]:
    told = [a for a in copies if a["value"].get("difference")]
    not_so = [a for a in told if a["value"].get("agree")]
    same = [a for a in copies if a not in told]
    return {
        "compared": len(copies),
        "said_to_agree": len(same),
        "agree": sum(bool(a["value"].get("agree")) for a in same),
        "farthest": max((a["value"].get("distance", 0.0) for a in same), default=0.0),
        "unexplained": [_title(a) for a in same if not a["value"].get("agree")],
        "said_to_differ_but_agree": [_title(a) for a in not_so],
        "explained": [
            {
                "library": a["library"], "loss": a["loss"], "name": a["name"],
                "ours": a["value"].get("ours"), "theirs": a["value"].get("theirs"),
                "difference": a["value"]["difference"], "error": a["value"].get("error"),
            }
            for a in told
        ],
    }  # fmt: skip


def _title(answer: Answer) -> str:
    return f"{answer['library']} {answer['name']}: {answer['value']}"


def summary(counted: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = []
    for name, c in counted["libraries"].items():
        lines.append(
            f"{name:28} {c['losses']:4} losses, {c['with_failure']:4} with a failure, "
            f"{results.share(c['failed'], c['checks'])} checks failed"
        )
    contract, values = counted["contract"], counted["values"]
    lines.append(f"contract: {contract['failed']} of {contract['checks']} failed")
    lines.append(
        f"values: {values['agree']} of {values['said_to_agree']} agree to 1e-6 "
        f"(farthest {values['farthest']:.1e}), {len(values['explained'])} differ and say why"
    )
    lines += [f"  unexplained: {title}" for title in values["unexplained"]]
    lines += [f"  no difference: {title}" for title in values["said_to_differ_but_agree"]]
    return "\n".join(lines)


def page(data: dict[str, Any]) -> Iterable[str]:
    """The page of the study."""
    counted = data["figures"]
    contract = counted["contract"]
    yield "# The catalogue beside other libraries"
    yield (
        "One battery of checks on every loss of the catalogue and on the copies of the same losses "
        "in other libraries, called as their users call them, with options under which they mean "
        "the same. A check that would try our own lines around such a call, rather than the "
        "library, is not asked of it."
    )
    yield results.setting(data)
    yield "Versions: " + ", ".join(f"{k} {v}" for k, v in data["versions"].items()) + "."
    yield results.table(
        ("library", "losses", "with a failure", "checks failed", "other than `no items`"),
        [_row(name, c) for name, c in _ranked(counted["libraries"])]
        + [_row("all but lossproof", counted["copies"])],
    )
    yield (
        "Losses are calls: a loss with other options, or other kinds of inputs, counts again. "
        "What is told apart in the last column is a convention, on which others decided otherwise."
    )
    yield (
        "What the catalogue promises beyond that (reductions, weights, masks, Modules, exactness, "
        f"the properties on its pages): {contract['failed']} of {contract['checks']} checks failed."
    )
    yield "## Check by check"
    yield results.table(
        ("check", "what it asks", "failed in (failed of tried)", OURS, "others"),
        [_check_row(counted, name) for name in COMMON],
        texts=3,
    )
    yield "## Values"
    yield from _of_values(counted["values"])
    yield "## What fails"
    yield "The words of each failure are in `benchmarks/results/catalogue.jsonl`."
    yield results.table(
        ("library", "loss", "call", "failed checks"),
        [
            (library, f"`{loss}`", f"`{_cell(name)}`", ", ".join(checks))
            for library, loss, name, checks in sorted(counted["failures"])
        ],
        texts=4,
    )
    yield "`python -m benchmarks catalogue` makes this page."


def _ranked(libraries: dict[str, Any]) -> list[tuple[str, Any]]:
    """Ours first, then the others by the share of checks that fail."""
    share = {name: c["failed"] / max(c["checks"], 1) for name, c in libraries.items()}
    return sorted(libraries.items(), key=lambda item: (item[0] != OURS, share[item[0]], item[0]))


def _row(name: str, c: dict[str, Any]) -> tuple[Any, ...]:
    return (
        name, c["losses"], c["with_failure"], results.share(c["failed"], c["checks"]),
        c["failed_besides_no_items"],
    )  # fmt: skip


def _check_row(counted: dict[str, Any], check: str) -> tuple[str, ...]:
    failing = [
        f"{name} {_of(c['by_check'][check])}"
        for name, c in sorted(counted["libraries"].items())
        if name != OURS and c["by_check"][check][0]
    ]
    asked = " ".join((COMMON[check].__doc__ or "").split())
    ours, others = counted["libraries"].get(OURS), counted["copies"]
    return (
        check, asked, ", ".join(failing) or "none", _of(ours["by_check"][check]) if ours else "-",
        _of(others["by_check"][check]),
    )  # fmt: skip


def _of_values(values: dict[str, Any]) -> Iterable[str]:
    yield (
        f"{values['compared']} copies were called with the same inputs as ours, in float64 where "
        f"they take it. {values['agree']} of the {values['said_to_agree']} whose definition is the "
        f"same agree to a relative {AGREE:.0e} (the farthest: {values['farthest']:.1e}). The "
        "others differ, and this is why:"
    )
    yield results.table(
        ("loss", "library", "call", "why", "ours", "theirs"),
        [
            (
                f"`{v['loss']}`", v["library"], f"`{_cell(v['name'])}`", v["difference"],
                _number(v["ours"]), _number(v["theirs"]),
            )
            for v in values["explained"]
        ],
        texts=4,
    )  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _of(counts: Sequence[int]) -> str:
    return f"{counts[0]}/{counts[1]}" if counts[1] else "-"


def _number(value: float | None) -> str:
    return "raises" if value is None else f"{value:.7g}"
