"""K heads on one trunk: the time of the backward pass and of the whole step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.study import Case, Step
from benchmarks.terms.backwards import BACKWARDS, OURS, PLAIN, Backward, ours, plain
from benchmarks.terms.floor import floors
from benchmarks.terms.models import Heads

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


def ways(model: str, count: int) -> tuple[str, ...]:
    """What is measured of a model."""
    slow = TOO_SLOW.get(model, {})
    return tuple(name for name in BACKWARDS if count <= slow.get(name, count))


def made(case: Case, name: str) -> Step:
    """A step in one of the ways: its forward and its backward pass."""
    setting = Heads(case["model"], case["count"])
    return step_of(setting, BACKWARDS[name], lambda: _facts(case, name))


def step_of(
    setting: Heads,
    prepare: Callable[[Heads], Backward],
    facts: Callable[[], dict[str, Any]] = dict,
) -> Step:
    """A step on a network."""
    backward = prepare(setting)
    held: list[tuple[Tensor, list[Tensor]]] = []
    phases = {
        "forward": lambda: held.append(setting.forward()),
        "backward": lambda: backward(*held.pop()),
    }
    return Step(phases, setting.clear, facts)


def _facts(case: Case, name: str) -> dict[str, Any]:
    model, count = case["model"], case["count"]
    if name == PLAIN:
        gradient = sum(parameter.nbytes for parameter in Heads(model, count).parameters)
        return {"floors": floors(model, count), "gradient_mb": round(gradient / 2**20, 2)}
    return {"deviation": deviation(model, count)} if name == OURS else {}


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


def every_tenth(case: Case, name: str) -> Callable[[], Any]:
    """Ten steps: plain ones, or with weights that are computed anew in one of them."""
    setting = Heads(case["model"], case["count"])
    backward = ours(setting, every=10) if name == OURS else plain(setting)

    def ten() -> None:
        for _ in range(10):
            setting.clear()
            backward(*setting.forward())

    return ten
