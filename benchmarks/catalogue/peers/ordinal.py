"""Ordinal losses of other libraries."""

from __future__ import annotations

import torch

from benchmarks.catalogue.imported import Imported
from benchmarks.catalogue.peer import Peer
from lossproof.losses.ordinal import coral_loss, corn_loss

Tensor = torch.Tensor

INPUTS = "input float[8,4]; target int[8]<5"


_CORAL = Imported("coral_pytorch.losses", "coral_loss")
_CORN = Imported("coral_pytorch.losses", "corn_loss")


def _coral(input: Tensor, target: Tensor) -> Tensor:
    levels = target.unsqueeze(1) > torch.arange(input.shape[1])
    value: Tensor = _CORAL(input, levels.to(input.dtype))
    return value


def _corn(input: Tensor, target: Tensor) -> Tensor:
    value: Tensor = _CORN(input, target, input.shape[1] + 1)
    return value


PEERS = (
    Peer("coral_loss", "coral-pytorch", "coral_loss(levels)", coral_loss, _coral, INPUTS),
    Peer("corn_loss", "coral-pytorch", "corn_loss(num_classes=5)", corn_loss, _corn, INPUTS),
)
