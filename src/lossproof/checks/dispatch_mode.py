"""A dispatch mode of torch that does not load torch's compiler."""

from __future__ import annotations

import sys

from torch.utils._python_dispatch import TorchDispatchMode


class LeanDispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The base of ours: what is called for every operation.

    Torch keeps its compiler away from the methods of such a mode, and loads it to do so, which
    takes longer than a whole check: that is only needed where somebody uses it.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch should keep its compiler away from this class's methods."""
        return "torch._dynamo" in sys.modules
