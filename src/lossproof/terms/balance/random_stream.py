"""Random numbers whose place in the stream is part of a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from lossproof.write.arguments import integer

Tensor = torch.Tensor


class RandomStream(nn.Module):
    """A random generator of its own, seeded, that is saved and resumed with the module it is in.

    It draws on the CPU, where its state stays, so that no step waits for a device; ranks with
    equal seeds draw equal numbers, and nobody's global seed is touched.

    Args:
        seed: the seed, an integer of at least 0.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = integer("seed", seed, minimum=0)
        self.generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())

    def extra_repr(self) -> str:
        return f"seed={self.seed}"
