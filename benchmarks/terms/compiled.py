"""A compiled step of a small network with K heads, over the plain eager one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.terms.backwards import BACKWARDS, OURS, PLAIN, named
from benchmarks.terms.models import Heads
from benchmarks.terms.timing import in_turns, summed, timed

ENVIRONMENT = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
"""What was compiled in an earlier run is compiled again."""
EAGER = (
    PLAIN,
    OURS,
    "TorchJD mtl_backward + UPGrad",
    "TorchJD mtl_backward + UPGrad, optimize_gramian_computation",
    "TorchJD mtl_backward + UPGrad, parallel_chunk_size=1",
)
"""What takes its turn without being compiled."""


def terms_of(network: nn.ModuleList, inputs: Tensor, *targets: Tensor) -> dict[str, Tensor]:
    """The terms by name, as `compiled_step` takes them."""
    trunk, heads = network
    features = trunk(inputs)
    pairs = zip(heads, targets, strict=True)
    return named([F.mse_loss(head(features), target) for head, target in pairs])


def plain(setting: Heads) -> Callable[[], Any]:
    """The sum of the terms, compiled with its backward pass."""

    def total(inputs: Tensor, *targets: Tensor) -> Tensor:
        return torch.stack(list(terms_of(setting.network, inputs, *targets).values())).sum()

    compiled = torch.compile(total, fullgraph=True)
    return lambda: compiled(setting.inputs, *setting.targets).backward()


def ours(setting: Heads) -> Callable[[], Any]:
    """UPGrad of lossproof, compiled."""
    from lossproof.terms import UPGrad, compiled_step

    step = compiled_step(terms_of, setting.network, UPGrad())
    return lambda: step(setting.inputs, *setting.targets)


COMPILED = {f"{PLAIN}, compiled": plain, f"{OURS}, compiled": ours}


def measured(model: str, count: int, rounds: int) -> dict[str, Any]:
    """All ways, in turns."""
    settings = {name: Heads(model, count) for name in (*EAGER, *COMPILED)}
    steps = {name: _eager(settings[name], name) for name in EAGER}
    for name, prepare in COMPILED.items():
        steps[name] = _step(settings[name], prepare)
    first = {name: _waited(steps[name]) for name in COMPILED}
    return {
        "step": summed(in_turns(steps, rounds), PLAIN),
        "first_call_s": first,
        "deviation": _deviation(settings[f"{OURS}, compiled"], settings[OURS]),
    }


def _deviation(one: Heads, other: Heads) -> float:
    """How far the gradients that two ways have left are apart, relative, at most."""
    worst = 0.0
    for given, wanted in zip(one.parameters, other.parameters, strict=True):
        assert given.grad is not None and wanted.grad is not None
        worst = max(worst, float((given.grad - wanted.grad).norm() / wanted.grad.norm()))
    return worst


def _waited(action: Callable[[], Any]) -> float:
    """The seconds that pass, in other processes or not: the compiler starts some."""
    begin = time.perf_counter()
    action()
    return round(time.perf_counter() - begin, 1)


def _eager(setting: Heads, name: str) -> Callable[[], float]:
    backward = BACKWARDS[name](setting)

    def step() -> float:
        setting.clear()
        return timed(lambda: backward(*setting.forward()))

    return step


def _step(setting: Heads, prepare: Callable[[Heads], Callable[[], Any]]) -> Callable[[], float]:
    action = prepare(setting)

    def step() -> float:
        setting.clear()
        return timed(action)

    return step
