"""A loss that is computed in another way than it was written."""

from __future__ import annotations

from typing import Any, NoReturn

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

    def _replicate_for_data_parallel(self) -> NoReturn:
        # A replica has parameters of its own, and what it computes with would not be those.
        raise TypeError(
            f"`nn.DataParallel` cannot replicate a {type(self).__name__}: keep the loss outside of "
            "it, or use `nn.parallel.DistributedDataParallel`"
        )

    @property
    def compiles(self) -> bool:
        """Whether it is computed by what ``torch.compile`` made of it."""
        return False

    def cut(self, rows: int) -> None:
        """From now on compute in parts of so many rows, however small the inputs are.

        ``lossproof.check`` asks its own copy for it: small inputs are computed at once otherwise,
        as they are by the plain loss, and there would be nothing to compare.
        """
        for size in ("chunk_size", "block_size"):
            if hasattr(self, size):
                setattr(self, size, rows)
