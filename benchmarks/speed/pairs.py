"""Memory and time of losses over all pairs of a batch: the studies share a page with `embed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.study import MEMORY, TIMES, Case, Kind, Method, Step, Study
from benchmarks.speed import pair_losses as written

EAGER, COMPILED = "eager", "torch.compile"
OURS, CATALOGUE = "lossproof pairs", "lossproof catalogue"
GEOMLOSS = "geomloss"
MIB, GIB = 2**20, 2**30
RESERVE = 500 * MIB
LONG = 32768
"""So many rows that the matrix of all pairs takes 4 GB."""

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class PairLoss:
    """One loss, written in several ways, and what it is given."""

    ways: Mapping[str, Loss]
    draw: Callable[[int, int], tuple[Tensor, ...]]
    matrices: int
    """How many matrices of all pairs the eager one holds, at most."""


def _normal(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def views(rows: int, width: int) -> tuple[Tensor, ...]:
    """Two noisy views of the same, and a scale."""
    first = _normal(rows, width, 0)
    second = first + 0.3 * _normal(rows, width, 1)
    return first.requires_grad_(), second.requires_grad_(), torch.tensor(14.0).requires_grad_()


def samples(rows: int, width: int) -> tuple[Tensor, ...]:
    """Two samples, and the width of a kernel."""
    first, second = _normal(rows, width, 0), 0.1 + _normal(rows, width, 1)
    return first.requires_grad_(), second.requires_grad_(), torch.tensor(float(width) ** 0.5)


def labelled(rows: int, width: int) -> tuple[Tensor, ...]:
    """Vectors in groups of four."""
    return _normal(rows, width, 0).requires_grad_(), torch.arange(rows) % max(2, rows // 4)


def clouds(rows: int, width: int) -> tuple[Tensor, ...]:
    """Two clouds of points as far from each other as the regularisation can see."""
    first, second = 0.1 * _normal(rows, width, 0), 0.1 * _normal(rows, width, 1)
    return first.requires_grad_(), (second + 0.05).requires_grad_()


LOSSES: Mapping[str, PairLoss] = {
    "InfoNCE": PairLoss(
        {
            EAGER: written.info_nce,
            OURS: written.info_nce_pairs,
            CATALOGUE: written.info_nce_catalogue,
        },
        views, 7,
    ),
    "MMD": PairLoss(
        {EAGER: written.mmd, OURS: written.mmd_pairs, CATALOGUE: written.mmd_catalogue},
        samples, 13,
    ),
    "batch-hard triplet": PairLoss(
        {
            EAGER: written.batch_hard,
            OURS: written.batch_hard_pairs,
            CATALOGUE: written.batch_hard_catalogue,
        },
        labelled, 8,
    ),
    "Sinkhorn": PairLoss(
        {EAGER: written.sinkhorn, OURS: written.sinkhorn_pairs}, clouds, 48
    ),
    "Sinkhorn divergence": PairLoss(
        {
            EAGER: written.divergence,
            CATALOGUE: written.sinkhorn_catalogue,
            GEOMLOSS: written.sinkhorn_geomloss,
        },
        clouds, 3 * 48,
    ),
}  # fmt: skip


def way_of(loss: str, method: str) -> Loss:
    """One way to compute a loss; compiled is the eager one."""
    if method == COMPILED:
        return torch.compile(LOSSES[loss].ways[EAGER])
    return LOSSES[loss].ways[method]


def make(case: Case, method: Method) -> Step:
    """Forward and backward of one way."""
    loss, rows, width = (case[key] for key in ("loss", "rows", "width"))
    way, draw = way_of(loss, method.name), LOSSES[loss].draw
    given = draw(rows, width)
    first = given if method.name == COMPILED else draw(min(rows, 2048), width)
    value: list[Tensor] = []
    return Step(
        {
            "forward": lambda: value.append(way(*given)),
            "backward": lambda: value.pop().backward(),
        },
        before=partial(_clear, given),
        facts=lambda: {"loss": float(way(*given).detach())},
        warm=None if TIMES in case.measures else partial(_taken, way, first),
    )


def _clear(given: tuple[Tensor, ...]) -> None:
    for tensor in given:
        tensor.grad = None


def _taken(way: Loss, given: tuple[Tensor, ...]) -> None:
    way(*given).backward()
    _clear(given)


def estimate(case: Case, method: Method) -> int:
    """Bytes, at most."""
    matrix = 4 * case["rows"] ** 2
    if method.name in (EAGER, COMPILED):
        return RESERVE + LOSSES[case["loss"]].matrices * matrix
    return RESERVE + (12 * matrix if method.name == GEOMLOSS else GIB)


def case_of(loss: str, rows: int, *measures: str, width: int = 128, few: bool = False) -> Case:
    methods = (OURS, CATALOGUE) if few else (*LOSSES[loss].ways, COMPILED)
    settings: dict[str, Any] = {"loss": loss, "rows": rows, "width": width}
    return Case(f"{loss}, N = {rows:,}, d = {width}", settings, methods, measures)


METHODS = (
    Method(EAGER, Kind.plain),
    Method(COMPILED),
    Method(GEOMLOSS, needs=("geomloss",)),
    Method(OURS, Kind.ours),
    Method(CATALOGUE, Kind.ours),
)
THREE = ("InfoNCE", "MMD", "batch-hard triplet")


study_of = partial(
    Study,
    title="Losses over all pairs of a batch",
    methods=METHODS,
    make=make,
    baseline=EAGER,
    rounds=7,
    seconds=120.0,
    estimate=estimate,
    sources=("benchmarks.speed.pair_losses",),
)
MEMORY_STUDY = study_of(
    name="speed_pairs_memory",
    asks="how much memory does a loss over all pairs take, with their matrix and without?",
    takes="7 min",
    cases=(
        *(case_of(loss, 8192, MEMORY) for loss in THREE),
        case_of("Sinkhorn", 4096, MEMORY),
        case_of("Sinkhorn divergence", 4096, MEMORY),
        case_of("InfoNCE", LONG, MEMORY, width=256, few=True),
    ),
)
TIMES_STUDY = study_of(
    name="speed_pairs_times",
    asks="how long does a loss over all pairs take, with their matrix and without?",
    takes="6 min",
    cases=(
        *(case_of(loss, 4096, TIMES) for loss in (*THREE, "Sinkhorn")),
        case_of("Sinkhorn divergence", 1024, TIMES),
    ),
)
AIMS: dict[str, float] = {
    case_of("InfoNCE", 8192).name: 135,
    case_of("MMD", 8192).name: 170,
    case_of("batch-hard triplet", 8192).name: 70,
    case_of("Sinkhorn", 4096).name: 75,
    case_of("Sinkhorn divergence", 4096).name: 75,
    case_of("InfoNCE", LONG, width=256).name: 512,
}
"""MB at the peak of live bytes; the time is to be at most that of eager."""
