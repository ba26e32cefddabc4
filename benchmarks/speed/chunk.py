"""Memory and time of losses over a big output layer: three studies, whose figures share a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from benchmarks.harness.study import MEMORY, TIMES, Case, Kind, LeftOut, Method, Step, Study
from benchmarks.speed.head_ways import (
    EAGER,
    OURS,
    OURS_COMPILED,
    OURS_ROWS,
    OWN,
    TORCH,
    TORCH_CHUNK,
    WAYS,
    Loss,
    ways_of,
)
from benchmarks.speed.heads import CHUNK, MIB, HeadCase, Setting, drawn

SOURCES = ("benchmarks.speed.heads", "benchmarks.speed.head_ways")
RESERVE = 600 * MIB
"""What a process takes that has imported torch and compiled something."""


def make(case: Case, method: Method) -> Step:
    """Forward and backward of one way, on tensors of its own."""
    settings = dict(case.settings)
    long = settings.pop("long")
    head = HeadCase(**settings)
    way = WAYS[method.name]
    if not way.serves(head):
        raise LeftOut("it has no such loss")
    loss = way.make(head)
    setting = drawn(head)
    value: list[torch.Tensor] = []
    phases = {
        "forward": lambda: value.append(loss(setting)),
        "backward": lambda: derived(value.pop(), setting),
    }
    enough = setting if way.whole and way.compiles else setting.first(2 * CHUNK)
    return Step(
        phases,
        before=setting.clear,
        facts=lambda: {"loss": float(loss(setting).detach())},
        warm=partial(taken, loss, enough) if long else None,
    )


def derived(value: torch.Tensor, setting: Setting) -> None:
    """The backward pass; with a penalty on the gradient, that of the gradient too."""
    if setting.case.penalty:
        (slope,) = torch.autograd.grad(value, setting.hidden, create_graph=True)
        value = value + slope.square().sum()
    value.backward()


def taken(loss: Loss, setting: Setting) -> None:
    """One step, to compile and to load what it needs."""
    derived(loss(setting), setting)
    setting.clear()


def estimate(case: Case, method: Method) -> int:
    """Bytes, at most: weights and their gradients twice, and how often all logits are there."""
    settings = {key: value for key, value in case.settings.items() if key != "long"}
    head = HeadCase(**settings)
    way = WAYS[method.name]
    logits = 4 * head.rows * head.classes
    copies = {"JSD": 11, "capped": 6}.get(head.loss, 4) * (2 if head.penalty else 1)
    weights = 4 * head.hidden * (head.classes + head.rows)
    return RESERVE + 4 * weights + (copies * logits if way.whole else 0)


def case_of(head: HeadCase, *measures: str, methods: Iterable[str] = ()) -> Case:
    """The ways that serve a case, or those of them that are named."""
    wanted = tuple(methods) or tuple(WAYS)
    names = tuple(name for name in ways_of(head) if name in wanted)
    return Case(head.name, {**asdict(head), "long": TIMES not in measures}, names, measures)


def method_of(name: str) -> Method:
    """A way as a method of the studies."""
    kind = Kind.ours if name in OWN else Kind.plain if name == EAGER else Kind.peer
    return Method(name, kind, needs=("liger_kernel",) if name.startswith("Liger") else ())


METHODS = tuple(method_of(name) for name in WAYS)
FEW = (EAGER, TORCH_CHUNK, OURS, OURS_COMPILED)
TWICE = (EAGER, f"checkpoint of {CHUNK} rows", OURS, OURS_ROWS)
"""Those that can be differentiated twice."""


study_of = partial(
    Study,
    title="Losses over a big output layer",
    methods=METHODS,
    make=make,
    baseline=EAGER,
    rounds=5,
    seconds=240.0,
    estimate=estimate,
    sources=SOURCES,
)
MEMORY_STUDY = study_of(
    name="speed_chunk_memory",
    asks="how much memory does a loss over 32,000 classes take, in chunks and otherwise?",
    takes="9 min",
    cases=(
        case_of(HeadCase("CE", 8192, 32000), MEMORY),
        case_of(HeadCase("capped", 4096, 32000), MEMORY),
        case_of(HeadCase("JSD", 2048, 32000, hidden=256), MEMORY),
        case_of(HeadCase("JSD", 2048, 32000), MEMORY, methods=FEW),
        case_of(HeadCase("CE", 4096, 32000, hidden=256, head="MLP"), MEMORY),
        case_of(HeadCase("CE", 2048, 16000, hidden=256, penalty=True), MEMORY, methods=TWICE),
    ),
)
TIMES_STUDY = study_of(
    name="speed_chunk_times",
    asks="how long does a loss over 32,000 classes take, in chunks and otherwise?",
    takes="8 min",
    cases=(
        case_of(HeadCase("CE", 1024, 32000), TIMES),
        case_of(HeadCase("CE", 4096, 32000), TIMES, methods=FEW),
        case_of(HeadCase("capped", 1024, 32000), TIMES),
        case_of(HeadCase("JSD", 1024, 32000, hidden=256), TIMES),
        case_of(HeadCase("CE", 1024, 32000, hidden=256, head="MLP"), TIMES),
    ),
)
VOCABULARY_STUDY = study_of(
    name="speed_chunk_vocabulary",
    asks="what do 128,000 classes cost?",
    takes="8 min",
    cases=(
        case_of(HeadCase("CE", 8192, 128_000, eager=False), MEMORY,
                methods=(TORCH, "Liger log-probabilities", OURS, OURS_COMPILED)),
        case_of(HeadCase("CE", 2048, 128_000), MEMORY,
                methods=(EAGER, TORCH, "Liger log-probabilities", OURS, OURS_COMPILED)),
        case_of(HeadCase("CE", 1024, 128_000), TIMES, methods=(*FEW, TORCH)),
    ),
)  # fmt: skip
AIMS: dict[str, float] = {
    HeadCase("CE", 8192, 32000).name: 235,
    HeadCase("capped", 4096, 32000).name: 250,
    HeadCase("JSD", 2048, 32000, hidden=256).name: 150,
    HeadCase("CE", 8192, 128_000).name: 700,
}
"""MB at the peak of live bytes; the time is to be at most that of eager."""


def floor_of(case: dict[str, Any]) -> float:
    """MB of the gradients and of one chunk, of a case as it was saved."""
    settings = {key: value for key, value in case["settings"].items() if key != "long"}
    return HeadCase(**settings).floor
