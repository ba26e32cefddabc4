"""K heads on one trunk: the time of the backward pass and of the whole step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.terms.backwards import BACKWARDS, OURS, PLAIN, Backward, ours
from benchmarks.terms.floor import floors
from benchmarks.terms.models import Heads
from benchmarks.terms.timing import Step, in_turns, quotient, summed, timed

TOO_SLOW = {
    # seconds a step, over and over: left out where there is nothing to learn from it
    "mlpwide": {
        "conflictfree ConFIG": 2,
        "LibMTL PCGrad": 4,
        "LibMTL MGDA": 4,
        "TorchJD backward + UPGrad": 4,
        "TorchJD mtl_backward + UPGrad, parallel_chunk_size=1": 4,
    },
}
"""For how many terms a way is measured at most."""


def measured(model: str, count: int, rounds: int) -> dict[str, Any]:
    """All ways of one model, in turns."""
    steps: dict[str, Callable[[], tuple[float, float]]] = {}
    failed = {}
    for name, prepare in BACKWARDS.items():
        if count > TOO_SLOW.get(model, {}).get(name, count):
            continue
        try:
            steps[name] = step_of(Heads(model, count), prepare)
            steps[name]()
        except Exception as error:  # whatever a library raises is its answer
            if name in (PLAIN, OURS):
                raise
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    whole: dict[str, list[float]] = {name: [] for name in steps}
    backward = in_turns({name: _kept(step, whole[name]) for name, step in steps.items()}, rounds)
    return {
        "backward": summed(backward, PLAIN),
        "step": {
            name: quotient(_last(whole[name], rounds), _last(whole[PLAIN], rounds))
            for name in steps
        },
        "floors": floors(model, count),
        "failed": failed,
        "deviation": deviation(model, count),
    }


def step_of(
    setting: Heads, prepare: Callable[[Heads], Backward]
) -> Callable[[], tuple[float, float]]:
    """A step: the processor time of its forward and of its backward pass."""
    backward = prepare(setting)

    def step() -> tuple[float, float]:
        setting.clear()
        begin = time.process_time()
        features, terms = setting.forward()
        middle = time.process_time()
        backward(features, terms)
        return middle - begin, time.process_time() - middle

    return step


def _kept(step: Callable[[], tuple[float, float]], whole: list[float]) -> Step:
    """The backward pass of a step, while the time of all of it is kept aside."""

    def backward() -> float:
        before, after = step()
        whole.append(before + after)
        return after

    return backward


def _last(whole: list[float], rounds: int) -> list[float]:
    """The means of the rounds, without the two steps that warmed up."""
    counted = whole[2:]
    each = len(counted) // rounds
    return [sum(counted[k * each : (k + 1) * each]) / each for k in range(rounds)]


def deviation(model: str, count: int) -> float:
    """How far our gradient is from the weighted sum of K gradients, relative, at most."""
    setting = Heads(model, count)
    setting.clear()
    step = ours(setting)(*setting.forward())
    _, terms = setting.forward()
    worst = 0.0
    true: dict[int, Tensor] = {}
    for weight, term in zip(step.weights, terms, strict=True):
        found = torch.autograd.grad(term, setting.parameters, retain_graph=True, allow_unused=True)
        for k, gradient in enumerate(found):
            if gradient is not None:
                true[k] = true.get(k, 0.0) + weight * gradient.double()
    for k, gradient in true.items():
        given = setting.parameters[k].grad
        assert given is not None
        worst = max(worst, float((given - gradient).norm() / gradient.norm()))
    return worst


def every_tenth(model: str, count: int, rounds: int) -> dict[str, Any]:
    """Ten steps whose weights are computed anew in one, over ten plain steps."""
    plain, refreshed = Heads(model, count), Heads(model, count)
    backward = ours(refreshed, every=10)

    def ten_plain() -> None:
        for _ in range(10):
            plain.clear()
            torch.stack(plain.forward()[1]).sum().backward()

    def ten_refreshed() -> None:
        for _ in range(10):
            refreshed.clear()
            backward(*refreshed.forward())

    steps = {PLAIN: lambda: timed(ten_plain), OURS: lambda: timed(ten_refreshed)}
    return {"step": summed(in_turns(steps, rounds), PLAIN)}
