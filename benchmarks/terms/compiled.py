"""A compiled step of a small network with K heads, over the plain eager one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness.study import WHOLE, Case, Step
from benchmarks.terms.backwards import BACKWARDS, OURS, PLAIN, named
from benchmarks.terms.models import Heads

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


def made(case: Case, name: str) -> Step:
    """A whole step in one of the ways."""
    setting = Heads(case["model"], case["count"])
    if name in COMPILED:
        step = Step({WHOLE: COMPILED[name](setting)}, setting.clear)
    else:
        backward = BACKWARDS[name](setting)
        step = Step({WHOLE: lambda: backward(*setting.forward())}, setting.clear)
    if name == f"{OURS}, compiled":
        step.facts = lambda: {"deviation": deviation(setting, step)}
    return step


def deviation(setting: Heads, step: Step) -> float:
    """How far the gradients of a step are from those of the eager one, relative, at most."""
    eager = Heads("pinn", setting.count)
    eager.clear()
    BACKWARDS[OURS](eager)(*eager.forward())
    step.take()
    return _distance(setting, eager)


def _distance(one: Heads, other: Heads) -> float:
    """How far the gradients that two steps have left are apart, relative, at most."""
    worst = 0.0
    for given, wanted in zip(one.parameters, other.parameters, strict=True):
        assert given.grad is not None and wanted.grad is not None
        worst = max(worst, float((given.grad - wanted.grad).norm() / wanted.grad.norm()))
    return worst
