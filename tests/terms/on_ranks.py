"""A small problem for several ranks, each with its part of the batch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from tests.terms.balance.every_balancer import make
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lossproof.terms.balance.annealing import LearningRateAnnealing
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.from_torchjd import FromTorchJD

NAMES = ("data", "pde", "bc")
PART = 8
"""Samples on each rank."""


class Net(nn.Module):
    """A trunk and a head for each term; the shapes do not divide by the number of ranks.

    Args:
        unused: whether there is a layer that no term depends on.
        own: whether the outermost module has parameters of its own.
    """

    def __init__(self, unused: bool = False, own: bool = False) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(len(NAMES))) if own else None
        self.trunk = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(7, 1) for _ in NAMES])
        if unused:
            self.idle = nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        hidden = self.trunk(x)
        outputs = [head(hidden)[:, 0] for head in self.heads]
        if self.factors is None:
            return outputs
        return [factor * output for factor, output in zip(self.factors, outputs, strict=True)]


class Told(Balancer):
    """Weights that are given, with the gradients measured all the same."""

    needs = ("gramian", "max_abs")

    def weights_of(self, figures):
        told = dict(zip(NAMES, (0.25, 1.5, 3.0), strict=True))
        return figures.values.new_tensor([told[name] for name in figures.names])


def net(**options: Any) -> Net:
    torch.manual_seed(0)
    return Net(**options).double()


def batch(step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole batch of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(PART * size, 4, generator=generator, dtype=torch.float64)
    return x, torch.randn(PART * size, len(NAMES), generator=generator, dtype=torch.float64)


def own_part(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of the batch that this rank sees."""
    rank = dist.get_rank()
    rows = slice(rank * PART, (rank + 1) * PART)
    x, y = batch(step, dist.get_world_size())
    return x[rows], y[rows]


def residuals(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    x, y = data
    return {
        name: 3.0**k * (output - y[:, k])
        for k, (name, output) in enumerate(zip(NAMES, model(x), strict=True))
    }


def terms(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    return {name: part.square().mean() for name, part in residuals(model, data).items()}


def ddp(model: nn.Module, **options: Any) -> DistributedDataParallel:
    return DistributedDataParallel(model, **options)


def sharded(model: Net, shape: Sequence[int] | None = None, **options: Any) -> Net:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sizes = tuple(shape or (dist.get_world_size(),))
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("replica", "shard")[-len(sizes) :])
    for part in (model.trunk, *model.heads):
        fully_shard(part, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def whole(tensor: Any) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def parameters_of(model: nn.Module) -> list[Any]:
    return [whole(one).tolist() for one in model.parameters()]


def grads_of(model: nn.Module) -> list[Any]:
    return [None if one.grad is None else whole(one.grad).tolist() for one in model.parameters()]


VARIANTS: dict[str, Callable[[], Balancer]] = {
    "means over means": lambda: LearningRateAnnealing(NAMES, ratio="mean_mean"),
    "norms over norms": lambda: LearningRateAnnealing(NAMES, ratio="norm"),
    "TorchJD's UPGrad": lambda: FromTorchJD(aggregation().UPGrad(), NAMES),
    "TorchJD's PCGrad": lambda: FromTorchJD(aggregation().PCGrad(), NAMES),
    "a weighting of the matrix for TorchJD": lambda: FromTorchJD(of_the_matrix(), NAMES),
}


def aggregation() -> Any:
    return importlib.import_module("torchjd.aggregation")


def of_the_matrix() -> Any:
    class Largest(aggregation().Weighting):  # from what each rank has to itself
        def forward(self, matrix: torch.Tensor) -> torch.Tensor:
            return 1 / matrix.abs().amax(1)

    return Largest()


def given(balancer: Balancer, model: Any, data: Any) -> dict[str, Any]:
    """The terms in the form that the balancer wants."""
    samples = getattr(balancer, "samples", None)
    if isinstance(samples, int):
        x, y = data
        parts = [(x[k::samples], y[k::samples]) for k in range(samples)]
        each = [terms(model, part) for part in parts]
        return {name: [one[name] for one in each] for name in NAMES}
    if type(balancer).scalars is not Balancer.scalars:
        return residuals(model, data)
    return terms(model, data)


def trained(name: str, model: Any, data: Any, steps: range, balancer: Balancer | None = None):
    """Train with Adam: the parameters, the weights of each step, and the balancer's own numbers."""
    balancer = balancer or (VARIANTS[name]() if name in VARIANTS else make(name, NAMES))
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-2)
    weights, values = [], []
    for step in steps:
        optimizer.zero_grad()
        outcome = balancer.backward(given(balancer, model, data(step)), list(model.parameters()))
        optimizer.step()
        weights.append(outcome.weights.tolist())
        values.append(outcome.values.tolist())
    own = [parameter.tolist() for parameter in balancer.parameters()]
    return parameters_of(model), weights, values, own
