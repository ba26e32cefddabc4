"""Parameters that are sharded over ranks, gathered for use outside of the Module that shards them.

``fully_shard`` gathers the parameters of a Module for its own forward pass. Who takes a sharded
parameter itself gathers it here, and the gradient goes back to the shards as the mean over the
ranks, as ``fully_shard`` has it.
"""

from __future__ import annotations

from typing import Any

import torch

from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor


def gathered(tensor: Any) -> Tensor:
    """The whole of a tensor, on every rank; one that is not sharded is the whole already."""
    if not is_sharded(tensor):
        return tensor  # type: ignore[no-any-return]
    from torch.distributed.tensor import Partial

    mesh = tensor.device_mesh
    whole: Tensor = tensor.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if not whole.requires_grad:
        return whole
    mean: Tensor = _MeanGradient.apply(whole, mesh.size())  # type: ignore[no-untyped-call]
    return mean


class _MeanGradient(torch.autograd.Function):
    """The tensor itself; of the gradient each rank takes its part of a mean over the ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.ranks, None
