"""The step in progress, written down while it happens.

References alone, in raw tuples: this is done in every step, and a small step takes a few hundred
microseconds. They are made into what others read when something has gone wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lossproof.checks.trace import tensors_in
from lossproof.watcher.record import Held, autocast_now, versions_of
from lossproof.watcher.snapshot import bytes_of

Tensor = torch.Tensor
Generators = dict[torch.device, Tensor]

USUAL = 2
"""How many calls a step usually has: they hold what the training itself holds."""
MOST = 256
"""How many calls of one step are held, however small they are."""
UNUSED = 32
"""How many calls of the model are held that no loss has followed: each holds what it computed, as
nobody does who plays or evaluates with a model in training mode."""
SIZED_EVERY = 64
"""How many steps go by until somebody asks again how much one holds."""
CPU = torch.device("cpu")
GOES_ON: Generators = {}
"""The generators of a call that draws where the one before it ended."""
AUTOCAST_IS_ON = torch._C._is_any_autocast_enabled


class Tape:
    """Holds the calls of a step until the next one has begun.

    Args:
        memory: how many bytes may be held of a step.
    """

    __slots__ = ("_memory", "_sized", "_small", "held")

    def __init__(self, memory: int) -> None:
        self.held = Held(1)
        self._memory = memory
        self._sized = self._small = False

    def gather(
        self, role: str, name: str, function: Callable[..., Any], args: Any, kwargs: Any,
        state: Generators, result: Any,
    ) -> None:  # fmt: skip
        """Add a call; the arguments are the fields of a :class:`~lossproof.watcher.record.Call`."""
        versions = versions_of(args, kwargs)
        autocast = autocast_now() if AUTOCAST_IS_ON() else {}
        calls = self.held.calls
        calls.append((role, name, function, args, kwargs, versions, state, result, autocast))
        if len(calls) > USUAL:
            self._let_go(calls)

    def generators_of_terms(self) -> Generators:
        """The states of the generators before terms are computed, where no model has drawn."""
        calls = self.held.calls
        return GOES_ON if calls and calls[-1][0] == "model" else generators()

    def next(self, keep: bool) -> None:
        """The step ended.

        Args:
            keep: whether it may be asked for in the next one: nobody looked at its gradients, and
                what they did to the parameters will show there.
        """
        held = self.held
        held.before = None
        if keep and self._is_small():
            # The model cannot be performed again with the parameters that it had.
            held.calls = [call for call in held.calls if call[0] == "terms"]
            self.held = Held(held.step + 1, held)
        else:
            self.held = Held(held.step + 1)

    def release(self) -> None:
        """Let go of all."""
        self.held = Held(self.held.step)

    def _is_small(self) -> bool:
        """Whether a step that ended may be held besides the one in progress."""
        if not self._sized or self.held.step % SIZED_EVERY == 0:
            self._sized = True
            self._small = sum(map(_bytes, self.held.calls)) <= self._memory
        return self._small

    def _let_go(self, calls: list[tuple[Any, ...]]) -> None:
        """Drop the oldest calls, as under gradient accumulation, if they hold too much."""
        sizes = [_bytes(call) for call in calls]
        while (sum(sizes) > self._memory and len(calls) > USUAL) or len(calls) > MOST:
            del calls[0], sizes[0]
            words = f"{self._memory / 2**20:.0f} MiB, or {MOST} calls of one step"
            self.held.dropped = f"no more than {words}, are held"
        if len(calls) > UNUSED and all(call[0] == "model" for call in calls[-UNUSED - 1 :]):
            del calls[-UNUSED - 1]
            self.held.dropped = f"no more than {UNUSED} calls of the model before a loss are held"


def generators() -> Generators:
    """The states of the random number generators that a step may draw from."""
    found = {CPU: torch.default_generator.get_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        device = torch.device("cuda", torch.cuda.current_device())
        found[device] = torch.cuda.get_rng_state(device)
    return found


def _bytes(call: tuple[Any, ...]) -> int:
    """How much memory the tensors of a raw call take."""
    return bytes_of(list(tensors_in(call)))
