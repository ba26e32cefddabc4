"""The figures of the battery, its page, and the summary that is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import results
from benchmarks.catalogue.battery import COMMON

Answer = dict[str, Any]
OURS = "lossproof"


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
        "values": _values(copies),
    }


def _counts(answers: Sequence[Answer]) -> dict[str, Any]:
    answers = [answer for answer in answers if answer["common"]]  # others are only compared
    return {
        "losses": len(answers),
        "with_failure": sum(any(a["common"].values()) for a in answers),
        "checks": sum(len(a["common"]) for a in answers),
        "failed": sum(v is not None for a in answers for v in a["common"].values()),
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
    contract, values = counted["contract"], counted["values"]
    libraries = sorted(
        counted["libraries"].items(), key=lambda item: (item[0] != OURS, item[1]["failed"])
    )
    yield "# The catalogue beside other libraries"
    yield (
        "The battery of `benchmarks/catalogue/battery.py` on every loss of the catalogue and on "
        "the copies of the same losses in other libraries, called with options under which they "
        "mean the same. Each check asks for something a user may expect of any loss."
    )
    yield results.setting(data)
    yield "Versions: " + ", ".join(f"{k} {v}" for k, v in data["versions"].items()) + "."
    yield results.table(
        ("library", "losses", "with a failure", "checks failed"),
        [
            (name, c["losses"], c["with_failure"], results.share(c["failed"], c["checks"]))
            for name, c in libraries
        ],
    )
    yield (
        f"What the catalogue promises beyond that (reductions, weights, masks, Modules, the "
        f"properties on its pages): {contract['failed']} of {contract['checks']} checks failed."
    )
    yield "## Check by check"
    yield "Failed of tried."
    yield results.table(
        ("library", *COMMON),
        [(name, *(_cell(c["by_check"][check]) for check in COMMON)) for name, c in libraries],
    )
    yield results.table(
        ("check", "what it asks"),
        [(name, " ".join((check.__doc__ or "").split())) for name, check in COMMON.items()],
    )
    yield "## Values"
    yield (
        f"{values['compared']} copies were called with the same inputs. "
        f"{values['agree']} of the {values['said_to_agree']} whose definition is the same agree "
        f"to a relative 1e-6 (the farthest: {values['farthest']:.1e}); the others differ, and this "
        "is why:"
    )
    yield results.table(
        ("loss", "library", "call", "ours", "theirs", "why"),
        [
            (
                f"`{v['loss']}`", v["library"], f"`{v['name']}`", _number(v["ours"]),
                _number(v["theirs"]), v["difference"],
            )
            for v in values["explained"]
        ],
    )  # fmt: skip
    yield "`python -m benchmarks.catalogue.run` makes this page."


def _cell(counts: list[int]) -> str:
    return f"{counts[0]}/{counts[1]}" if counts[1] else "-"


def _number(value: float | None) -> str:
    return "raises" if value is None else f"{value:.6g}"
