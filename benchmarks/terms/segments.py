"""K terms on disjoint samples: the time of the whole step over that of the best plain one."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.terms.backwards import named
from benchmarks.terms.models import Segments
from benchmarks.terms.timing import in_turns, summed, timed

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


def measured(model: str, count: int, rounds: int) -> dict[str, Any]:
    """All ways of one model, in turns."""
    steps = {}
    failed = {}
    for name, (prepare, terms) in WAYS.items():
        if name in TOO_SLOW.get(model, ()):
            continue
        setting = Segments(model, count)
        action = prepare(setting, terms)
        try:
            action()
        except Exception as error:  # whatever a library raises is its answer
            if name.startswith("lossproof"):
                raise
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            continue
        steps[name] = _step(setting, action)
    times = in_turns(steps, rounds)
    best = min(PLAINS, key=lambda name: statistics.median(times[name]))
    return {"best_plain": best, "step": summed(times, best), "failed": failed}


def _step(setting: Segments, action: Action) -> Callable[[], float]:
    def step() -> float:
        setting.clear()
        return timed(action)

    return step
