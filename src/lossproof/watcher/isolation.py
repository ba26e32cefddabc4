"""A replay must not wait for anybody: other ranks take no part in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossproof.errors import LossproofError

COLLECTIVES = ("c10d::", "_c10d_functional::", "_dtensor::", "fsdp::")


class CollectiveInReplayError(LossproofError, RuntimeError):
    """A step that is performed again would need the other ranks, which do not perform it."""


class _NoCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses every operation that talks to other ranks."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares the import of torch's compiler, which takes longer than a whole check."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.name().startswith(COLLECTIVES):
            raise CollectiveInReplayError(
                f"the step cannot be performed again on one rank alone: `{func.name()}`"
            )
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def replaying() -> Iterator[None]:
    """A context in which gradients are recorded and collectives are refused."""
    dist = torch.distributed
    alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
    with torch.enable_grad(), contextlib.nullcontext() if alone else _NoCollectives():  # type: ignore[no-untyped-call]
        yield
