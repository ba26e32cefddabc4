"""K terms on disjoint samples: the time of the whole step over that of the best plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.study import WHOLE, Case, Step
from benchmarks.terms.backwards import named
from benchmarks.terms.models import Segments

Terms = Callable[[Segments], list[Tensor]]
Action = Callable[[], Any]
PLAINS = ("plain, joined", "plain, separate")


def plain(setting: Segments, terms: Terms) -> Action:
    """One backward pass of the sum."""
    return lambda: torch.stack(terms(setting)).sum().backward()


def ours(setting: Segments, terms: Terms) -> Action:
    """UPGrad of lossproof."""
    from lossproof.terms import UPGrad

    balancer = UPGrad()
    return lambda: balancer.backward(named(terms(setting)), setting.network)


def gradients(setting: Segments, terms: Terms) -> Action:
    """The gradient of every term by itself, not combined."""
    return lambda: [
        torch.autograd.grad(term, setting.parameters, retain_graph=True) for term in terms(setting)
    ]


def torchjd(setting: Segments, terms: Terms, chunk: int | None = None) -> Action:
    """TorchJD's backward, and UPGrad."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import backward, jac_to_grad

    aggregator = UPGrad()

    def step() -> None:
        backward(terms(setting), inputs=setting.parameters, parallel_chunk_size=chunk)
        jac_to_grad(setting.parameters, aggregator)

    return step


def conflictfree(setting: Segments, terms: Terms) -> Action:
    """ConFIG as the README of conflictfree writes it."""
    from conflictfree.grad_operator import ConFIGOperator
    from conflictfree.utils import get_gradient_vector

    operator = ConFIGOperator()

    def step() -> None:
        found = []
        for term in terms(setting):
            setting.clear()
            term.backward()
            found.append(get_gradient_vector(setting.network))
        operator.update_gradient(setting.network, torch.stack(found))

    return step


WAYS: dict[str, tuple[Callable[..., Action], Terms]] = {
    "plain, joined": (plain, Segments.joined),
    "plain, separate": (plain, Segments.separate),
    "lossproof UPGrad, joined": (ours, Segments.joined),
    "lossproof UPGrad, separate": (ours, Segments.separate),
    "K x autograd.grad, joined": (gradients, Segments.joined),
    "K x autograd.grad, separate": (gradients, Segments.separate),
    "TorchJD backward + UPGrad, joined": (torchjd, Segments.joined),
    "TorchJD backward + UPGrad, separate": (torchjd, Segments.separate),
    "TorchJD backward + UPGrad, parallel_chunk_size=1, separate": (
        lambda setting, terms: torchjd(setting, terms, chunk=1),
        Segments.separate,
    ),
    "conflictfree ConFIG, separate": (conflictfree, Segments.separate),
}
"""Joined: one forward pass over all samples, split; separate: a forward pass for each term."""


TOO_SLOW = {
    "mlpwide": (
        "TorchJD backward + UPGrad, parallel_chunk_size=1, separate",
        "conflictfree ConFIG, separate",
    ),
}
"""Seconds a step, over and over: left out."""


def ways(model: str) -> tuple[str, ...]:
    """What is measured of a model."""
    return tuple(name for name in WAYS if name not in TOO_SLOW.get(model, ()))


def made(case: Case, name: str) -> Step:
    """A step in one of the ways."""
    setting = Segments(case["model"], case["count"])
    prepare, terms = WAYS[name]
    return Step({WHOLE: prepare(setting, terms)}, setting.clear)
