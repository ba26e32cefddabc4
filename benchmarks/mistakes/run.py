"""Which mistakes the check finds and names, alone and beside the corrected version.

``python -m benchmarks mistakes`` (``--help`` lists the options).
"""

from __future__ import annotations

import importlib
import pkgutil
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer

import lossproof
from benchmarks.harness import results
from benchmarks.harness.journal import Journal, work_through
from benchmarks.mistakes import cases
from benchmarks.mistakes.case import MISTAKES, Mistake
from benchmarks.studies import write_pages_of

JOURNAL = results.RESULTS / ".mistakes.jsonl"
MODES = ("alone", "reference", "right")


def load() -> dict[str, Mistake]:
    """All cases, by name."""
    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    return {mistake.name: mistake for mistake in MISTAKES}


@dataclass(frozen=True)
class Task:
    """One check: of the wrong loss alone, of it with a reference, or of the right one."""

    name: str
    mode: str

    @property
    def key(self) -> str:
        """A name for the task."""
        return f"{self.name}/{self.mode}"


def prepare() -> None:
    """Set up a worker process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def answer(task: Task) -> dict[str, Any]:
    """Run one check, and torch's gradcheck beside it."""
    case = load()[task.name]
    wrong, right, inputs = case.make()
    loss = right if task.mode == "right" else wrong
    torch.manual_seed(0)
    given = inputs()
    start = time.perf_counter()
    findings: list[dict[str, Any]] = []
    error = None
    try:
        reference = right if task.mode == "reference" else None
        report = lossproof.check(loss, *given, reference=reference)
        findings = [_plain(finding, inputs.__code__.co_filename) for finding in report]
    except Exception as problem:  # a check that fails has found nothing, and the study goes on
        error = f"{type(problem).__name__}: {problem}"
    return {
        "task": task.key, "name": task.name, "mode": task.mode, "findings": findings,
        "error": error, "seconds": round(time.perf_counter() - start, 3),
        "gradcheck": _gradcheck_objects(loss, given),
    }  # fmt: skip


def _plain(finding: lossproof.Finding, file: str) -> dict[str, Any]:
    place = finding.location
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "cause": finding.cause,
        "message": finding.message,
        "line": place.line if place is not None and place.file == file else None,
    }


def _gradcheck_objects(loss: Any, given: tuple[Any, ...]) -> bool:
    """Whether torch's own check says that something is wrong, on the same inputs in float64."""
    call = loss.apply if isinstance(loss, type) else loss
    call = call.double() if isinstance(call, torch.nn.Module) else call
    inputs = [
        value.detach().double().requires_grad_(value.requires_grad)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for value in given
    ]
    if sum(v.numel() for v in inputs if isinstance(v, torch.Tensor) and v.requires_grad) > 10_000:
        return False  # the Jacobian would take hours
    try:
        return not torch.autograd.gradcheck(call, inputs, raise_exception=False)
    except Exception:  # gradcheck passes on what the loss raises
        return True


def figures(answers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Count the answers."""
    known = load()
    listed = list(answers)
    counts: dict[str, Any] = {"cases": len(known)}
    for mode in ("alone", "reference"):
        group = [a for a in listed if a["mode"] == mode]
        counts[mode] = {
            "found": sum(bool(a["findings"]) for a in group),
            "named": sum(bool(_naming(a, known)) for a in group),
            "located": sum(any(f["line"] for f in _naming(a, known)) for a in group),
            "gradcheck": sum(a["gradcheck"] for a in group),
            "missed": sorted(a["name"] for a in group if not a["findings"]),
            "misnamed": sorted(a["name"] for a in group if a["findings"] and not _naming(a, known)),
        }
    right = [a for a in listed if a["mode"] == "right"]
    alarms = Counter(f"{a['name']} {f['code']}" for a in right for f in _alarms(a))
    counts["right"] = {
        "with_false_alarm": sum(bool(_alarms(a)) for a in right),
        "false_alarms": dict(alarms),
        "gradcheck": sum(a["gradcheck"] for a in right),
    }
    counts["errors"] = sum(a["error"] is not None for a in listed)
    return counts


def _naming(record: dict[str, Any], known: dict[str, Mistake]) -> list[dict[str, Any]]:
    fits = (*known[record["name"]].rules, "LP103")
    return [finding for finding in record["findings"] if finding["code"] in fits]


def _alarms(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [f for f in record["findings"] if f["severity"] != "performance"]


def page(data: dict[str, Any]) -> list[str]:
    """The study as blocks of markdown."""
    f = data["figures"]
    n = f["cases"]
    rows = [
        [title, n, *(results.share(f[mode][key], n) for key in ("found", "named", "located")),
         results.share(f[mode]["gradcheck"], n)]
        for title, mode in (("alone", "alone"), ("with the right loss as reference", "reference"))
    ]  # fmt: skip
    known = load()
    return [
        "# Mistakes that people make",
        f"{n} losses with a mistake as people make it, each beside its corrected version. *Named* "
        "means that a finding "
        "bears a rule that fits the mistake (or, with a reference, LP103), *located* that it "
        "points into the file of the case.",
        results.setting(data) + " Again: `python -m benchmarks mistakes`.",
        results.table(["wrong losses", "checks", "found", "named", "located", "gradcheck"], rows),
        f"Right losses with a false alarm: {f['right']['with_false_alarm']} of {n} (gradcheck "
        f"objects to {f['right']['gradcheck']}).",
        "The cases were written apart from the rules, and some rules were mended after for what "
        "they showed. The 87 in `found_*.py` at their very first run, before any mending: found "
        "67 (77 %) alone and 82 (94 %) with a reference, each of them named and located; an "
        "alarm on 6 right versions, of which 5 were at fault themselves.",
        "## Not found, or found under another name",
        "\n".join(
            f"- `{name}`: {known[name].what} ({how})"
            for how, key in (("not found", "missed"), ("another name", "misnamed"))
            for name in f["alone"][key]
        )
        or "None.",
    ]


def main(
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    fresh: Annotated[bool, typer.Option(help="Forget what an earlier run has done.")] = False,
    save: Annotated[bool, typer.Option(help="Write the results and the page.")] = True,
) -> None:
    """Check every case in three ways and write the results."""
    prepare()
    digest = results.source_digest()
    journal = Journal(JOURNAL, digest, fresh=fresh)
    tasks = [Task(name, mode) for name in load() for mode in MODES]
    answers = work_through(
        tasks, answer, journal, workers=workers, prepare=prepare, description="checking"
    )
    counted = figures(answers)
    print(_summary(counted))
    if save:
        results.refuse_if_changed(digest)
        data = {"machine": results.machine(), "figures": counted}
        print(results.save("mistakes", data))
        write_pages_of("mistakes")


def _summary(f: dict[str, Any]) -> str:
    lines = [
        f"{mode}: found {f[mode]['found']}, named {f[mode]['named']}, located "
        f"{f[mode]['located']} of {f['cases']}; missed {f[mode]['missed']}, "
        f"misnamed {f[mode]['misnamed']}; gradcheck {f[mode]['gradcheck']}"
        for mode in ("alone", "reference")
    ]
    right = f["right"]
    lines.append(f"right: {right['false_alarms']}, gradcheck {right['gradcheck']}")
    return "\n".join([*lines, f"errors of the check: {f['errors']}"])
