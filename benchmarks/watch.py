"""What the training guard costs: whole steps of a training, alone and watched."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

import lossproof
from benchmarks.harness import results
from benchmarks.harness.study import TIMES, WHOLE, Case, Kind, Method, Step, Study
from benchmarks.harness.tables import again, setting, shown
from benchmarks.speed.allocator import KEPT

ALONE, WATCHED = "alone", "watched"
AGAIN = "alone, in another process"
TESTED, ANOMALY = "isfinite(loss)", "detect_anomaly"
STEPS = 100
"""How many steps are timed as one: in most of them the guard does not look closely."""
A_FEW = 20
"""How many steps are a turn where both take theirs in one process."""
TURNS_S = 20.0
"""How long that goes on."""


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
    "perceptron 784-256-256-10, Adam": (
        lambda: perceptron(784, 256, 256, 10), (128, 784), torch.optim.Adam,
    ),
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

    def a_few() -> float:
        step()  # which finds anew what the optimizer trains
        begun = time.process_time()
        for _ in range(A_FEW):
            step()
        return time.process_time() - begun

    def facts() -> dict[str, Any]:
        if method.name != WATCHED:
            return {}
        looked = sum(figures.norm is not None for figures in guard.history)
        return {
            "looked": looked / max(1, len(guard.history)),
            "cost": guard.cost,
            "alarms": len(guard.alarms),
            "retired": guard.retired,
            "in_turns": in_turns(a_few, guard),
        }

    return Step({WHOLE: steps}, facts=facts)


def in_turns(a_few: Callable[[], float], guard: lossproof.Guard) -> list[float]:
    """What the guard adds to a few steps, as a part of them: the quartiles of many turns.

    In one process both find the same memory, which between processes makes more of a difference.
    """
    added = []
    ends = time.monotonic() + TURNS_S
    while time.monotonic() < ends or len(added) < A_FEW:
        guard.stop()
        before = a_few()
        guard.start()
        watched = a_few()
        guard.stop()
        added.append(2 * watched / (before + a_few()) - 1)
    return statistics.quantiles(added, n=4)


def page(data: dict[str, Any]) -> Iterable[str]:
    """The page of the study."""
    yield "# What watching costs"
    yield (
        f"{STEPS} steps of a training of cross entropy and a small penalty, on one thread: its"
        " processor time over that of the same training alone, with quartiles, the methods taking"
        " turns. `watched` is `lossproof.watch(model, criterion)` with a criterion of two terms,"
        " whose gradients are measured one by one now and then; `isfinite(loss)` is the test that"
        " people write; `detect_anomaly` is torch's own way to the operation that made a NaN."
    )
    yield (
        "Each method is a process of its own, and the same training in a second process"
        f" (`{AGAIN}`) shows how much of a difference is none: where tensors come to lie in memory"
        " changes from process to process. So the guard is also started and stopped within one"
        f" process, for {A_FEW} steps at a time: what it adds then is in the column `adds`. The aim"
        " is 3 % for a small network. The allocator keeps its pages, as"
        " [the page on it](../speed/allocator.md) says how to: where it gives them back, a variable"
        " that lives a little longer may cost or save hundreds of page faults in a step, whatever"
        " holds it."
    )
    yield from setting(data)
    rows = []
    for case in data["cases"]:
        methods = case["methods"]
        ratio = {name: found["ratio"][WHOLE] for name, found in methods.items() if name != ALONE}
        step = methods[ALONE]["processor_ms"][WHOLE]["median"] / STEPS
        facts = methods[WATCHED]["facts"]
        low, middle, high = (f"{100 * part:.1f}" for part in facts["in_turns"])
        rows.append((
            case["case"], f"{step:.3g}", f"{middle} % ({low} - {high})",
            *(shown(ratio[name]) for name in (WATCHED, AGAIN, TESTED, ANOMALY)),
            f"{facts['looked']:.0%}",
        ))  # fmt: skip
    header = (
        "training", "a step alone, ms", "adds", WATCHED, AGAIN, f"`{TESTED}`", f"`{ANOMALY}`",
        "steps with a look at the gradients",
    )  # fmt: skip
    yield results.table(header, rows)
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
        Method(AGAIN, Kind.plain),
        Method(TESTED, Kind.peer),
        Method(ANOMALY, Kind.peer),
    ),
    make=make,
    baseline=ALONE,
    environment=KEPT,
    page=page,
)
