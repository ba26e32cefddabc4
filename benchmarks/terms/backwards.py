"""The backward passes that are compared: from K terms to ``.grad``, by us and by the peers.

Each entry prepares, on a network of its own, a function of the features and the terms. Where a
library offers more than one way to call it, each is an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.libraries.stand_ins import without_its_init
from benchmarks.terms.models import Heads

Backward = Callable[[Tensor, list[Tensor]], Any]
PLAIN, OURS = "plain", "lossproof UPGrad"
RAW = "K x autograd.grad, not combined"


def plain(_: Heads) -> Backward:
    """One backward pass of the sum."""
    return lambda features, terms: torch.stack(terms).sum().backward()


def ours(setting: Heads, every: int = 1) -> Backward:
    """UPGrad of lossproof, over all parameters."""
    from lossproof.terms import UPGrad

    balancer = UPGrad(every=every)
    return lambda features, terms: balancer.backward(named(terms), setting.network)


def named(terms: Sequence[Tensor]) -> dict[str, Tensor]:
    """The terms by name, as lossproof takes them."""
    return {f"term {k}": term for k, term in enumerate(terms)}


def raw(setting: Heads) -> Backward:
    """The gradient of every term by itself, kept and not combined."""
    return lambda features, terms: [
        torch.autograd.grad(term, [*setting.shared, *head.parameters()], retain_graph=True)
        for term, head in zip(terms, setting.heads, strict=True)
    ]


def mtl_backward(setting: Heads, optimized: bool = False, chunk: int | None = None) -> Backward:
    """TorchJD's backward of a trunk with heads, and UPGrad."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregator = UPGrad()

    def backward(features: Tensor, terms: list[Tensor]) -> None:
        mtl_backward(terms, features=features, parallel_chunk_size=chunk)
        jac_to_grad(setting.shared, aggregator, optimize_gramian_computation=optimized)

    return backward


def jacobian_backward(setting: Heads) -> Backward:
    """TorchJD's backward that knows nothing of the structure, and UPGrad."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import backward, jac_to_grad

    aggregator = UPGrad()

    def step(features: Tensor, terms: list[Tensor]) -> None:
        backward(terms)
        jac_to_grad(setting.parameters, aggregator)

    return step


def autogram(setting: Heads) -> Backward:
    """TorchJD's Gramian without a Jacobian, and a second backward pass."""
    from torchjd.aggregation import UPGradWeighting
    from torchjd.autogram import Engine

    engine, weighting = Engine(setting.trunk, batch_dim=None), UPGradWeighting()

    def backward(features: Tensor, terms: list[Tensor]) -> None:
        values = torch.stack(terms)
        values.backward(weighting(engine.compute_gramian(values)))

    return backward


def conflictfree(setting: Heads) -> Backward:
    """ConFIG as the README of conflictfree writes it."""
    from conflictfree.grad_operator import ConFIGOperator
    from conflictfree.utils import get_gradient_vector

    operator = ConFIGOperator()

    def backward(features: Tensor, terms: list[Tensor]) -> None:
        gradients = []
        for k, term in enumerate(terms):
            for parameter in setting.shared:
                parameter.grad = None
            term.backward(retain_graph=k < len(terms) - 1)
            gradients.append(get_gradient_vector(setting.trunk))
        operator.update_gradient(setting.trunk, torch.stack(gradients))

    return backward


def libmtl(setting: Heads, method: str, **options: Any) -> Backward:
    """A weighting of LibMTL, within the least architecture that it runs in."""
    without_its_init("LibMTL")
    from importlib import import_module

    weighting = getattr(import_module(f"LibMTL.weighting.{method}"), method)

    class Architecture(weighting):  # type: ignore[misc, valid-type]
        def get_share_params(self) -> Any:
            return setting.trunk.parameters()

        def zero_grad_share_params(self) -> None:
            setting.trunk.zero_grad(set_to_none=False)

    model: nn.Module = Architecture()
    model.task_num = setting.count
    model.task_name = [str(k) for k in range(setting.count)]
    model.rep_grad = False
    model.device = torch.device("cpu")
    return lambda features, terms: model.backward(torch.stack(terms), **options)


BACKWARDS: dict[str, Callable[[Heads], Backward]] = {
    PLAIN: plain,
    OURS: ours,
    RAW: raw,
    "TorchJD mtl_backward + UPGrad": mtl_backward,
    "TorchJD mtl_backward + UPGrad, optimize_gramian_computation": (
        lambda setting: mtl_backward(setting, optimized=True)
    ),
    "TorchJD mtl_backward + UPGrad, parallel_chunk_size=1": (
        lambda setting: mtl_backward(setting, chunk=1)
    ),
    "TorchJD backward + UPGrad": jacobian_backward,
    "TorchJD autogram + UPGrad": autogram,
    "conflictfree ConFIG": conflictfree,
    "LibMTL PCGrad": lambda setting: libmtl(setting, "PCGrad"),
    "LibMTL MGDA": lambda setting: libmtl(setting, "MGDA", mgda_gn="none"),
}
PEERS = tuple(name for name in BACKWARDS if name not in (PLAIN, OURS, RAW))
