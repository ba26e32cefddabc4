"""A replay must not wait for anybody, other ranks take no part in it, and nobody watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lossproof.checks.dispatch_mode import LeanDispatchMode
from lossproof.checks.trace import tensors_in
from lossproof.errors import LossproofError
from lossproof.write.sharding import is_sharded

COLLECTIVES = ("c10d::", "_c10d_functional::", "_dtensor::", "fsdp::")
LOCAL = ("aten::detach", "aten::alias")
"""What can be done with a sharded tensor without a question to anybody."""
SHARDED = ("FSDPModule", "FullyShardedDataParallel")
"""The classes of modules that gather their parameters from all ranks when they are called."""
REPLAYS: list[None] = []
"""One entry for each replay in progress: no training that another guard should watch."""


class CollectiveInReplayError(LossproofError, RuntimeError):
    """A step that is performed again would need the other ranks, which do not perform it."""


class _NoCollectives(LeanDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses every operation that talks to other ranks."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # What a sharded tensor does for an operation is out of this mode's sight.
        sharded = any(is_sharded(one) for one in tensors_in([args, kwargs]))
        if func.name().startswith(COLLECTIVES) or (sharded and func.name() not in LOCAL):
            raise CollectiveInReplayError(
                f"the step cannot be performed again on one rank alone: `{func.name()}`"
            )
        return func(*args, **(kwargs or {}))


class _Modules:
    """What replays call of a distributed model, before it talks to other ranks.

    A sharded module is refused before it is entered: what its own hooks had begun by then would be
    missing in the training. Of ``DistributedDataParallel`` the module within is called, as under
    ``no_sync``.
    """

    def __init__(self) -> None:
        self._changed: list[tuple[nn.parallel.DistributedDataParallel, bool, bool]] = []

    def before(self, module: nn.Module, args: Any) -> None:
        """A module is about to be called."""
        if is_sharded_module(module):
            raise CollectiveInReplayError(
                "the step cannot be performed again on one rank alone: the model is sharded"
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            kept = module.require_backward_grad_sync, module.require_forward_param_sync
            self._changed.append((module, *kept))
            module.require_backward_grad_sync = module.require_forward_param_sync = False

    def restore(self) -> None:
        """Leave everything as it was."""
        for module, backward, forward in reversed(self._changed):
            module.require_backward_grad_sync = backward
            module.require_forward_param_sync = forward


def is_sharded_module(module: nn.Module) -> bool:
    """Whether to call a module is to call other ranks for its parameters."""
    return any(cls.__name__ in SHARDED for cls in type(module).__mro__)


def is_alone() -> bool:
    """Whether there are no other ranks."""
    dist = torch.distributed
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


@contextlib.contextmanager
def replaying() -> Iterator[None]:
    """A context in which gradients are recorded and collectives are refused."""
    with contextlib.ExitStack() as stack:
        REPLAYS.append(None)
        stack.callback(REPLAYS.pop)
        stack.enter_context(torch.enable_grad())
        if not is_alone():
            modules = _Modules()
            stack.callback(modules.restore)
            stack.callback(register_module_forward_pre_hook(modules.before).remove)
            stack.enter_context(_NoCollectives())  # type: ignore[no-untyped-call]
        yield
