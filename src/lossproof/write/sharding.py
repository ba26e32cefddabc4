"""Tensors that are distributed over ranks."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is distributed over ranks, as ``fully_shard`` leaves a parameter."""
    # Nobody has such a tensor who has not imported the module, which takes its time.
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")
