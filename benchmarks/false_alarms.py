"""False alarms on torch's own losses, and the power to see small and hidden errors in them.

``python -m benchmarks false_alarms`` (``--help`` lists the options).
"""

from __future__ import annotations

import collections
import importlib
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

import lossproof
from benchmarks.harness import results
from benchmarks.harness.journal import Journal, work_through
from benchmarks.studies import write_pages_of
from benchmarks.torch_losses import DEFECTS, LOSSES, arguments

JOURNAL = results.RESULTS / ".false_alarms.jsonl"
LARGE = 1_000_000

Spoil = Callable[[Tensor], Tensor]


def _scaled(gradient: Tensor) -> Tensor:
    return gradient * (1 + 1e-4)


def _one_zeroed(gradient: Tensor) -> Tensor:
    spoiled = gradient.clone()
    spoiled.view(-1)[gradient.abs().argmax()] = 0
    return spoiled


def _flipped(gradient: Tensor) -> Tensor:
    return -gradient


PLANTED: dict[str, Spoil] = {
    "scaled by 1 + 1e-4": _scaled,
    "one coordinate zeroed": _one_zeroed,
    "sign flipped": _flipped,
}


def planted(loss: Callable[..., Tensor], spoil: Spoil) -> type[Function]:
    """A Function with the loss's value, and its gradient for the first input spoiled."""

    class Planted(Function):
        @staticmethod
        def forward(ctx: Any, first: Tensor, *rest: Any) -> Tensor:
            ctx.save_for_backward(first)
            ctx.rest = rest
            return loss(first, *rest)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
            (first,) = ctx.saved_tensors
            with torch.enable_grad():
                leaf = first.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss(leaf, *ctx.rest), leaf, grad_output)
            return spoil(gradient), *(None for _ in ctx.rest)

    return Planted


def large_losses() -> dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]]:
    """Seven mean-reduced losses at a million elements, in float64."""
    generator = torch.Generator().manual_seed(86028121)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, y = normal(LARGE).requires_grad_(), normal(LARGE)
    rows = normal(LARGE // 10, 10).requires_grad_()
    labels = torch.randint(10, (LARGE // 10,), generator=generator)
    return {
        "mse": (functional.mse_loss, (x, y)),
        "l1": (functional.l1_loss, (x, y)),
        "huber": (functional.huber_loss, (x, y)),
        "log_cosh": (_log_cosh, (x, y)),
        "hinge": (_hinge, (x, y.sign())),
        "cross_entropy_soft": (functional.cross_entropy, (rows, normal(*rows.shape).softmax(-1))),
        "multi_margin": (functional.multi_margin_loss, (rows, labels)),
    }


def _log_cosh(input: Tensor, target: Tensor) -> Tensor:
    d = input - target
    return (d + functional.softplus(-2 * d)).mean() - 0.6931471805599453


def _hinge(input: Tensor, target: Tensor) -> Tensor:
    return torch.relu(1 - target * input).mean()


@dataclass(frozen=True)
class Task:
    """One check: of a loss as it is (``planted`` empty), or with an error planted."""

    loss: str
    planted: str
    seed: int
    large: bool = False

    @property
    def key(self) -> str:
        """A name for the task."""
        return f"{self.loss}/{self.planted}/{self.seed}/{self.large}"


def prepare() -> None:
    """Set up a worker process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def answer(task: Task) -> dict[str, Any]:
    """Run one check, and torch's gradcheck beside it."""
    if task.large:
        loss, given = large_losses()[task.loss]
    else:
        loss, given = arguments(LOSSES[task.loss], task.seed)
    subject: Any = planted(loss, PLANTED[task.planted]) if task.planted else loss
    start = time.perf_counter()
    findings: list[dict[str, Any]] = []
    error = None
    unproved: list[str] = []
    try:
        report = lossproof.check(subject, *given)
        findings = [_plain(finding) for finding in report.findings]
        unproved = [outcome.code for outcome in report.unproved]
    except Exception as problem:  # a check that fails has found nothing, and the study goes on
        error = f"{type(problem).__name__}: {problem}"
    seconds = time.perf_counter() - start
    return {
        "task": task.key, "loss": task.loss, "planted": task.planted, "seed": task.seed,
        "large": task.large, "findings": findings, "unproved": unproved, "error": error,
        "seconds": round(seconds, 3), "gradcheck_fast": _gradcheck_objects(subject, given),
    }  # fmt: skip


def _plain(finding: lossproof.Finding) -> dict[str, Any]:
    return {"code": finding.code, "cause": finding.cause, "message": finding.message}


def _gradcheck_objects(subject: Any, given: tuple[Any, ...]) -> bool:
    """Whether the fast mode of torch's own check says that something is wrong.

    To word its complaint, gradcheck would compute the whole Jacobian, for hours at a million
    elements. That the fast comparison failed is all that counts here, so the wording is left out.
    """
    call = subject.apply if isinstance(subject, type) else subject
    module = importlib.import_module("torch.autograd.gradcheck")
    try:
        with mock.patch.object(module, "_run_slow_mode_and_get_error", return_value=""):
            return not module.gradcheck(call, given, fast_mode=True, raise_exception=False)
    except Exception:  # gradcheck passes on what the backward raises
        return True


def tasks(seeds: int, *, large: bool) -> list[Task]:
    """Everything that is asked."""
    found = [
        Task(loss, fault, seed)
        for loss in LOSSES
        for fault in ("", *PLANTED)
        for seed in range(seeds)
    ]
    if large:
        found += [
            Task(loss, fault, 0, large=True) for loss in LARGE_NAMES for fault in LARGE_FAULTS
        ]
    return found


LARGE_NAMES = (
    "mse", "l1", "huber", "log_cosh", "hinge", "cross_entropy_soft", "multi_margin",
)  # fmt: skip
LARGE_FAULTS = ("", "sign flipped")


def figures(answers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Count the answers."""
    listed = list(answers)
    right = [a for a in listed if not a["planted"]]
    return {
        "right": {
            size: _right([a for a in right if a["large"] is large])
            for size, large in (("small", False), ("large", True))
        },
        "planted": {
            f"{fault}{' at n = 1e6' if large else ''}": _found(group)
            for fault in PLANTED
            for large in (False, True)
            if (group := [a for a in listed if a["planted"] == fault and a["large"] is large])
        },
        "errors": sum(a["error"] is not None for a in listed),
    }


def _right(answers: list[dict[str, Any]]) -> dict[str, Any]:
    alarms: collections.Counter[str] = collections.Counter()
    defects: collections.Counter[str] = collections.Counter()
    checks_with_alarm = 0
    for a in answers:
        codes = {f["code"] for f in a["findings"]}
        known = DEFECTS[a["loss"]].codes if a["loss"] in DEFECTS else frozenset()
        defects.update(f"{a['loss']} {code}" for code in codes & known)
        alarms.update(f"{a['loss']} {code}" for code in codes - known)
        checks_with_alarm += bool(codes - known)
    return {
        "checks": len(answers),
        "with_false_alarm": checks_with_alarm,
        "false_alarms": dict(sorted(alarms.items())),
        "real_defects": dict(sorted(defects.items())),
        "gradcheck_fast": sum(a["gradcheck_fast"] for a in answers),
    }


def _found(answers: list[dict[str, Any]]) -> dict[str, Any]:
    missed = [a for a in answers if not _convicts(a)]
    return {
        "checks": len(answers),
        "found": len(answers) - len(missed),
        "missed": dict(sorted(collections.Counter(a["loss"] for a in missed).items())),
        "inconclusive": sum("LP202" in a["unproved"] for a in missed),
        "gradcheck_fast": sum(a["gradcheck_fast"] for a in answers),
    }


def _convicts(record: dict[str, Any]) -> bool:
    return any(finding["code"].startswith("LP2") for finding in record["findings"])


def page(data: dict[str, Any]) -> list[str]:
    """The study as blocks of markdown."""
    f = data["figures"]
    return [
        "# False alarms and power",
        f"PyTorch's own {data['losses']} losses, {data['seeds']} seeds: they are right, so a "
        "finding is a false alarm; the known defects below are counted apart, and each is shown "
        "by code each time. Then the same losses with an error planted in the gradient.",
        results.setting(data) + " Again: `python -m benchmarks false_alarms`.",
        "## Right losses",
        results.table(
            ["", "checks", "with a false alarm", "real defects reported", "gradcheck fast objects"],
            [
                [name, g["checks"], g["with_false_alarm"],
                 ", ".join(f"{k}: {v}" for k, v in g["real_defects"].items()) or 0,
                 g["gradcheck_fast"]]
                for name, g in (("84 elements", f["right"]["small"]),
                                ("a million elements", f["right"]["large"]))
                if g["checks"]
            ],
        ),
        *(
            f"False alarms: {', '.join(f'{k}: {v}' for k, v in g['false_alarms'].items())}."
            for g in f["right"].values()
            if g["false_alarms"]
        ),
        "Known defects: " + "; ".join(f"`{k}`: {d['what']}" for k, d in data["defects"].items()),
        "## Planted errors",
        results.table(
            ["gradient", "checks", "found", "missed", "gradcheck fast"],
            [
                [fault, g["checks"], results.share(g["found"], g["checks"]),
                 ", ".join(f"{k}: {v}" for k, v in g["missed"].items()) or 0,
                 results.share(g["gradcheck_fast"], g["checks"])]
                for fault, g in f["planted"].items()
            ],
        ),
        f"{f['errors']} checks failed with an error of their own.",
    ]  # fmt: skip


def main(
    seeds: Annotated[int, typer.Option(help="Seeds for each loss.")] = 20,
    large: Annotated[bool, typer.Option(help="Also a million elements.")] = True,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    fresh: Annotated[bool, typer.Option(help="Forget what an earlier run has done.")] = False,
) -> None:
    """Check torch's losses as they are and with errors planted; a whole run writes the results."""
    prepare()
    for name, defect in DEFECTS.items():
        if not defect.shows():
            raise SystemExit(f"the defect of {name} is not there any more: {defect.what}")
    digest = results.source_digest()
    journal = Journal(JOURNAL, digest, fresh=fresh)
    answers = work_through(
        tasks(seeds, large=large), answer, journal,
        workers=workers, prepare=prepare, description="checking",
    )  # fmt: skip
    results.refuse_if_changed(digest)
    data = {
        "machine": results.machine(),
        "losses": len(LOSSES),
        "seeds": seeds,
        "defects": {name: {"what": defect.what} for name, defect in DEFECTS.items()},
        "figures": figures(answers),
        "seconds": {a["task"]: a["seconds"] for a in answers if a["large"]},
    }
    print(_summary(data["figures"]))
    if seeds >= 20 and large:
        print(results.save("false_alarms", data))
        write_pages_of("false_alarms")


def _summary(f: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = [
        f"right, {size}: {g['checks']} checks, {g['with_false_alarm']} with a false alarm "
        f"{g['false_alarms']}, defects {g['real_defects']}, gradcheck fast {g['gradcheck_fast']}"
        for size, g in f["right"].items()
    ]
    lines += [
        f"{fault}: found {g['found']}/{g['checks']}, missed {g['missed']}, of them inconclusive "
        f"{g['inconclusive']}, gradcheck fast {g['gradcheck_fast']}"
        for fault, g in f["planted"].items()
    ]
    return "\n".join([*lines, f"errors of the check: {f['errors']}"])
