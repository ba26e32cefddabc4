"""The figures of the study, its page, and the summary that is printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.harness import results
from benchmarks.libraries.defects import DEFECTS, Defect

Answer = dict[str, Any]
SLOWEST = 5


def figures(answers: Iterable[Answer]) -> dict[str, Any]:
    """Count the answers, for each library and for all of them."""
    listed = list(answers)
    names = list(dict.fromkeys(answer["library"] for answer in listed))
    return {
        "libraries": {
            name: _counts([answer for answer in listed if answer["library"] == name])
            for name in names
        },
        "all": _counts(listed),
    }


def _counts(answers: Sequence[Answer]) -> dict[str, Any]:
    known = [d for d in DEFECTS if any(_concerns(d, answer) for answer in answers)]
    reported = [d for d in known if any(_reports(answer, d) for answer in answers)]
    alarms = {_title(answer): found for answer in answers if (found := _false_alarms(answer))}
    before = [d for d in known if not d.told_by_the_check]
    slow = sorted(answers, key=lambda answer: -answer["seconds"])[:SLOWEST]
    return {
        "losses": len(answers),
        "with_false_alarm": len(alarms),
        "false_alarms": alarms,
        "with_alarm_if_later_defects_are_not_granted": sum(
            bool(_false_alarms(answer, before)) for answer in answers
        ),
        "defects_known": len(known),
        "defects_known_before": len(before),
        "defects_reported": len(reported),
        "defects_reported_known_before": sum(not d.told_by_the_check for d in reported),
        "reported": _listed(reported),
        "missed": _listed(d for d in known if d not in reported),
        "performance_findings": sum(
            finding["severity"] == "performance"
            for answer in answers
            for finding in answer["findings"]
        ),
        "errors": {_title(a): a["error"] for a in answers if a["error"] is not None},
        "seconds": {
            "median": round(statistics.median(answer["seconds"] for answer in answers), 2),
            "percentile_90": _percentile([answer["seconds"] for answer in answers], 90),
            "slowest": {_title(answer): answer["seconds"] for answer in slow},
        },
    }


def _title(answer: Answer) -> str:
    return f"{answer['library']} {answer['loss']}"


def _listed(defects: Iterable[Defect]) -> list[str]:
    """The defects in words, those of one library that are the same in one line."""
    losses: dict[tuple[str, str], list[str]] = {}
    for defect in defects:
        what = defect.what + (" (told by the check)" if defect.told_by_the_check else "")
        losses.setdefault((defect.library, what), []).append(defect.loss)
    return [f"{library} {'; '.join(names)}: {what}" for (library, what), names in losses.items()]


def _concerns(defect: Defect, answer: Answer) -> bool:
    return answer["library"] == defect.library and answer["loss"] == defect.loss


def _reports(answer: Answer, defect: Defect) -> bool:
    codes = {finding["code"] for finding in answer["findings"]}
    return _concerns(defect, answer) and bool(codes & defect.codes)


def _false_alarms(answer: Answer, defects: Iterable[Defect] | None = None) -> list[str]:
    """The codes of the errors and warnings that no known defect explains."""
    granted = DEFECTS if defects is None else defects
    true = {code for d in granted if _concerns(d, answer) for code in d.codes}
    return sorted(
        {
            finding["code"]
            for finding in answer["findings"]
            if finding["severity"] != "performance" and finding["code"] not in true
        }
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least so many percent of them do not exceed."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 2)


def page(data: dict[str, Any]) -> list[str]:
    """The study as blocks of markdown."""
    f = data["figures"]
    whole = f["all"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return [
        "# The losses of well-known libraries",
        f"{whole['losses']} losses, as their documentation uses them, at ordinary inputs drawn "
        "with one seed. An error or a warning is a false alarm, unless it bears a rule that "
        "reports a true defect: those are known, and code shows each before the run. Remarks on "
        "speed are counted apart.",
        results.setting(data) + f" Versions: {versions}. Again: "
        "`python -m benchmarks libraries`.",
        results.table(
            ["", "losses", "with a false alarm", "true defects reported", "remarks on speed",
             "median s", "90th percentile s"],
            [_row(name, g) for name, g in (*f["libraries"].items(), ("all", whole))],
        ),
        "## False alarms",
        _bullets(f"{loss}: {', '.join(codes)}" for loss, codes in whole["false_alarms"].items()),
        "## True defects",
        f"Of the {whole['defects_known']}, {whole['defects_known_before']} are known from "
        f"elsewhere; {whole['defects_reported_known_before']} of those are reported. The others "
        "came to light through the check's own reports. If these were not granted, "
        f"{results.share(whole['with_alarm_if_later_defects_are_not_granted'], whole['losses'])} "
        "of the losses would have a false alarm.",
        "Reported:",
        _bullets(whole["reported"]),
        "Not reported:",
        _bullets(whole["missed"]),
        "## Slowest checks",
        _bullets(f"{name}: {s:.1f} s" for name, s in whole["seconds"]["slowest"].items())
        + f"\n\nThe times were taken in {data['workers']} processes side by side, without the "
        "import of the libraries and the first check of a process.",
        "## Checks that failed",
        _bullets(f"{loss}: {error}" for loss, error in whole["errors"].items()),
    ]  # fmt: skip


def _row(name: str, g: dict[str, Any]) -> list[Any]:
    defects = f"{g['defects_reported']} of {g['defects_known']}"
    seconds = g["seconds"]
    return [
        name, g["losses"], results.share(g["with_false_alarm"], g["losses"]), defects,
        g["performance_findings"], seconds["median"], seconds["percentile_90"],
    ]  # fmt: skip


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "None."


def summary(f: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = []
    for name, g in (*f["libraries"].items(), ("all", f["all"])):
        seconds = g["seconds"]
        lines.append(
            f"{name}: {g['losses']} losses, {g['with_false_alarm']} with a false alarm, "
            f"{g['defects_reported']} of {g['defects_known']} true defects reported, "
            f"{g['performance_findings']} remarks on speed; median {seconds['median']} s, "
            f"90th percentile {seconds['percentile_90']} s"
        )
    whole = f["all"]
    lines += [f"false alarm: {k} {', '.join(v)}" for k, v in whole["false_alarms"].items()]
    lines += [f"defect not reported: {line}" for line in whole["missed"]]
    lines += [f"failed: {name}: {error}" for name, error in whole["errors"].items()]
    slow = ", ".join(f"{k} {s:.1f} s" for k, s in whole["seconds"]["slowest"].items())
    return "\n".join([*lines, f"slowest: {slow}"])
