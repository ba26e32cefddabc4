"""What the training guard costs: whole steps of a training, alone and watched."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

import lossproof
from benchmarks.harness import results
from benchmarks.harness.study import TIMES, WHOLE, Case, Kind, Method, Step, Study
from benchmarks.harness.tables import again, setting, shown

ALONE, WATCHED = "alone", "watched"
TESTED, ANOMALY = "isfinite(loss)", "detect_anomaly"
STEPS = 100
"""How many steps are timed as one: in most of them the guard does not look closely."""
SMALL = "perceptron 784-256-256-10, Adam"


def perceptron(*widths: int) -> nn.Module:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Module:
    """Three convolutions with batch norms, for images of 28 x 28."""
    parts: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 32)):
        parts += [
            nn.Conv2d(before, after, 3, 2, 1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Dropout(0.1),
        ]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(32 * 16, 10))


def transformer() -> nn.Module:
    """Two layers of attention over 64 tokens of 128 numbers."""
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(128, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "perceptron 64-128-128-10, SGD": (
        lambda: perceptron(64, 128, 128, 10), (64, 64), torch.optim.SGD,
    ),
    "perceptron 64-128-128-10, Adam": (
        lambda: perceptron(64, 128, 128, 10), (64, 64), torch.optim.Adam,
    ),
    SMALL: (lambda: perceptron(784, 256, 256, 10), (128, 784), torch.optim.Adam),
    "convolutions on 64 digits, Adam": (convolutional, (64, 1, 28, 28), torch.optim.Adam),
    "transformer on 16 x 64 tokens, AdamW": (transformer, (16, 64, 128), torch.optim.AdamW),
}  # fmt: skip


class Terms(nn.Module):
    """Cross entropy, and the size of the logits."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = logits.flatten(0, -2)
        return {
            "fit": nn.functional.cross_entropy(flat, target),
            "size": 1e-4 * flat.square().mean(),
        }


def make(case: Case, method: Method) -> Step:
    """A hundred steps of a training."""
    torch.manual_seed(0)
    build, shape, optimizer_class = NETWORKS[case.name]
    model = build()
    x = torch.randn(shape)
    with torch.no_grad():
        rows = model(x).flatten(0, -2).shape[0]
    target = torch.randint(10, (rows,))
    optimizer = optimizer_class(model.parameters(), lr=1e-4)
    criterion = Terms()
    guard = lossproof.watch(model, criterion)
    if method.name == WATCHED:
        guard.start()

    def step() -> None:
        optimizer.zero_grad()
        loss = sum(criterion(model(x), target).values())
        if method.name == TESTED and not torch.isfinite(loss):
            raise FloatingPointError("the loss is not finite")
        loss.backward()
        optimizer.step()

    def steps() -> None:
        with torch.autograd.set_detect_anomaly(method.name == ANOMALY):
            for _ in range(STEPS):
                step()

    def facts() -> dict[str, Any]:
        looked = sum(figures.norm is not None for figures in guard.history)
        return {
            "looked": looked / max(1, len(guard.history)),
            "cost": guard.cost,
            "alarms": len(guard.alarms),
            "retired": guard.retired,
        }

    return Step({WHOLE: steps}, facts=facts)


def page(data: dict[str, Any]) -> Iterable[str]:
    """The page of the study."""
    yield "# What watching costs"
    yield (
        f"{STEPS} steps of a training of cross entropy and a small penalty, on one thread: its"
        " processor time over that of the same training alone, with quartiles, the methods taking"
        " turns. `watched` is `lossproof.watch(model, criterion)` with a criterion of two terms,"
        " whose gradients are measured one by one now and then; `isfinite(loss)` is the test that"
        " people write; `detect_anomaly` is torch's own way to the operation that made a NaN."
        f" The aim is 1.03 for the small network ({SMALL})."
    )
    yield from setting(data)
    rows = []
    for case in data["cases"]:
        methods = case["methods"]
        ratio = {name: found["ratio"][WHOLE] for name, found in methods.items() if name != ALONE}
        step = methods[ALONE]["processor_ms"][WHOLE]["median"] / STEPS
        looked = methods[WATCHED]["facts"]["looked"]
        rows.append((
            case["case"], f"{step:.3g}", *(shown(ratio[name]) for name in (
                WATCHED, TESTED, ANOMALY)), f"{looked:.0%}",
        ))  # fmt: skip
    header = ("training", "a step alone, ms", WATCHED, f"`{TESTED}`", f"`{ANOMALY}`")
    yield results.table((*header, "steps with a look at the gradients"), rows)
    yield again(data)


STUDY = Study(
    name="watch",
    title="What watching costs",
    asks="how much slower is a training that is watched?",
    takes="6 min",
    cases=tuple([Case(name, {}, measures=(TIMES,)) for name in NETWORKS]),
    methods=(
        Method(ALONE, Kind.plain),
        Method(WATCHED, Kind.ours),
        Method(TESTED, Kind.peer),
        Method(ANOMALY, Kind.peer),
    ),
    make=make,
    baseline=ALONE,
    page=page,
)
