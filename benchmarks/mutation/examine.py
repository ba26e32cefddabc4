"""One mutant, examined by lossproof and by torch's gradcheck: plain data in, plain data out."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import lossproof
from benchmarks.mutation import words
from benchmarks.mutation.catalogue import Loaded, load
from benchmarks.mutation.truth import CHECKED_SEED

UNNAMED = (None, "unnamed")
CONVICTS = ("LP2", "LP3", "LP408")
"""The rules that can see a wrong backward: of the gradient, of the numbers, and of a crash."""


def is_of_the_gradient(code: str) -> bool:
    """Whether a rule says that a gradient is wrong.

    LP208 does not: that a teacher gets a gradient is no fault of how it was computed.
    """
    return code.startswith("LP2") and code != "LP208"


@dataclass(frozen=True)
class Task:
    """What a worker is given; ``info`` comes back with the answer."""

    path: str
    info: dict[str, Any]
    seed: int = CHECKED_SEED
    peers: bool = True

    @property
    def key(self) -> str:
        """A name for the task, the same in every run."""
        return f"{self.info['key']}@{self.seed}"


def prepare() -> None:
    """Set up a worker process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def examine(task: Task) -> dict[str, Any]:
    """Run the check, and the peers, on one module of the study."""
    path = Path(task.path)
    loaded = load(path, path.stem)
    record = {**task.info, "task": task.key, **_check(loaded, task.seed)}
    if task.peers:
        record["gradcheck_slow"] = _gradcheck_objects(loaded, task.seed, fast=False)
        record["gradcheck_fast"] = _gradcheck_objects(loaded, task.seed, fast=True)
    return record


def _check(loaded: Loaded, seed: int) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        report = lossproof.check(loaded.loss, *loaded.inputs(seed))
    except Exception as error:  # a check that fails has found nothing, and the study goes on
        return {"findings": [], "unproved": [], "error": f"{type(error).__name__}: {error}"}
    return {
        "findings": [_finding(finding) for finding in report.findings],
        "unproved": [outcome.code for outcome in report.unproved],
        "seconds": round(time.perf_counter() - start, 4),
    }


def _finding(finding: lossproof.Finding) -> dict[str, Any]:
    places = [finding.location, *(place for _, place in finding.related)]
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "cause": finding.cause,
        "message": finding.message,
        "line": finding.location.line if finding.location else None,
        "lines": [place.line for place in places if place is not None],
        "has_help": finding.help is not None,
    }


def _gradcheck_objects(loaded: Loaded, seed: int, *, fast: bool) -> bool:
    """Whether torch's own check says that something is wrong."""
    try:
        return not torch.autograd.gradcheck(
            loaded.loss.apply, loaded.inputs(seed), fast_mode=fast, raise_exception=False
        )
    except Exception:  # gradcheck passes on what the backward raises
        return True


def judge(record: dict[str, Any], usual: set[str]) -> dict[str, Any]:
    """What the findings are worth; ``usual`` are the codes found on the unchanged backward."""
    new = [
        finding
        for finding in record["findings"]
        if finding["code"] not in usual
        and finding["code"].startswith(CONVICTS)
        and finding["code"] != "LP208"
    ]
    # Where a rule of the gradient convicts, it has to name the cause itself.
    on_gradient = [finding for finding in new if is_of_the_gradient(finding["code"])]
    causes = [f["cause"] for f in on_gradient or new if f["cause"] not in UNNAMED]
    lines = [line for finding in new for line in finding["lines"]]
    relations = record["relations"]
    return {
        "found": bool(new),
        "codes": sorted({finding["code"] for finding in new}),
        "causes": causes,
        "named": bool(causes),
        "line_given": bool(lines),
        "line_exact": record.get("line") in lines,
        "help_given": any(finding["has_help"] for finding in new),
        "agrees": words.agrees(record["kind"], relations, causes),
        "simplest": words.says_the_simplest(relations, causes),
        "contradicted": words.contradicted(relations, causes),
    }
