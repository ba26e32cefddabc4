"""A loss that is computed in another way than it was written."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


class Accelerated(nn.Module):
    """A loss that is computed in another way than it was written; made by ``lossproof.speed``.

    The way it was written is still there: :meth:`plain` is what ``lossproof.check`` compares with.
    """

    def plain(self, *arguments: Any, **options: Any) -> Tensor:
        """The same loss, computed as it was written: with all the memory and time that this takes.

        It takes what the accelerated loss takes.
        """
        raise NotImplementedError
