"""What the allocator costs a loss on a CPU: fresh pages, huge pages, and pages that are kept."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import results, tables
from benchmarks.harness.study import TIMES, Case, Kind, Method, Step, Study

SIZE = (16, 3, 512, 512)
HUGE = {"THP_MEM_ALLOC_ENABLE": "1"}
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    f"glibc.malloc.trim_threshold={1 << 40}"
}
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "huge pages": HUGE,
    "kept pages": KEPT,
    "kept huge pages": TUNED,
}
EAGER, COMPILED, FUSED = "eager", "torch.compile", "lossproof fuse"
MARK = "<!-- figures: written by `python -m benchmarks speed_allocator` -->"
PAGE = results.ROOT / "docs" / "speed" / "allocator.md"
Loss = Callable[[Tensor, Tensor], Tensor]


def mse(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).mean()


def charbonnier(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2 + 1e-6).sqrt().mean()


def focal(input: Tensor, target: Tensor) -> Tensor:
    p = input.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    of_target = p * target + (1 - p) * (1 - target)
    balance = 0.25 * target + 0.75 * (1 - target)
    return (balance * (1 - of_target) ** 2 * entropy).mean()


LOSSES: dict[str, Loss] = {"MSE": mse, "Charbonnier": charbonnier, "focal": focal}


def way_of(loss: Loss, way: str) -> Loss:
    if way == EAGER:
        return loss
    if way == COMPILED:
        return torch.compile(loss)
    from lossproof import fuse

    return fuse(loss)


def make(case: Case, method: Method) -> Step:
    """Forward and backward of one way, in a process with its own settings."""
    loss = way_of(LOSSES[case["loss"]], method.name.partition(", ")[0])
    input = torch.randn(case["size"]).requires_grad_()
    target = (torch.randn(case["size"]) > 1).float()
    value: list[Tensor] = []
    step = Step(
        {
            "forward": lambda: value.append(loss(input, target)),
            "backward": lambda: value.pop().backward(),
        },
        before=partial(setattr, input, "grad", None),
    )
    step.facts = lambda: {"page faults": faults(step), "resident MB after": resident()}
    return step


def faults(step: Step) -> int:
    """How often a step touched a page for the first time."""
    step.before()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step.run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int | None:
    """MB that the process has from the system; Linux alone tells."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return None
    return int(status.read_text().split()[1]) * resource.getpagesize() // 2**20


def methods() -> Iterable[Method]:
    """Each way under each setting."""
    kinds = {EAGER: Kind.plain, COMPILED: Kind.peer, FUSED: Kind.ours}
    for way, kind in kinds.items():
        for name, environment in SETTINGS.items():
            yield Method(f"{way}, {name}", kind, environment=environment)


STUDY = Study(
    name="speed_allocator",
    title="The allocator",
    asks="what does a loss on a CPU cost with fresh pages, huge pages, and pages that are kept?",
    takes="6 min",
    cases=tuple(
        Case(f"{loss}, 12.6 million elements", {"loss": loss, "size": SIZE}, measures=(TIMES,))
        for loss in LOSSES
    ),
    methods=tuple(methods()),
    make=make,
    baseline=f"{EAGER}, default",
    rounds=9,
    seconds=60.0,
)


def page(data: dict[str, Any]) -> Iterable[str]:
    """The page as it is written by hand, with the figures in it."""
    before, _, after = PAGE.read_text(encoding="utf-8").split(MARK)
    yield before
    yield MARK
    yield from figures(data)
    yield MARK
    yield after


def figures(data: dict[str, Any]) -> Iterable[str]:
    """Milliseconds, page faults and resident memory: a row for each way, a column for a setting."""
    yield from tables.setting(data)
    for case in data["cases"]:
        yield f"**{case['case']}**: ms for forward and backward; page faults of a step"
        yield results.table(
            ("way", *SETTINGS), [_row(way, case["methods"]) for way in (EAGER, COMPILED, FUSED)]
        )
    yield "MB that the process of the eager loss has from the system between steps:"
    yield results.table(
        ("loss", *SETTINGS), [(case["case"], *_held(case["methods"])) for case in data["cases"]]
    )


def _row(way: str, found: dict[str, Any]) -> tuple[str, ...]:
    return way, *(_cell(found[f"{way}, {name}"]) for name in SETTINGS)


def _held(found: dict[str, Any]) -> Iterable[str]:
    for name in SETTINGS:
        megabytes = found[f"{EAGER}, {name}"].get("facts", {}).get("resident MB after")
        yield "-" if megabytes is None else f"{megabytes:,}"


def _cell(figures: dict[str, Any]) -> str:
    if "processor_ms" not in figures:
        return "fails"
    times = tables.number(figures["processor_ms"]["step"]["median"])
    return f"{times}; {figures['facts']['page faults']:,}"
