"""A small problem for several ranks, each with its part of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lossproof.terms.balance.base import Balancer

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
