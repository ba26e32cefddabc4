"""Steps on a device that runs ahead of the processor, judged when their numbers arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from lossproof.watcher.gradient_norms import norms_of
from lossproof.watcher.optimizers import Trained, Training
from lossproof.watcher.reading import Reading
from lossproof.watcher.record import Held
from lossproof.watcher.snapshot import Snapshot, bytes_of

Tensor = torch.Tensor


class Late:
    """A step whose numbers were on their way.

    Attributes:
        held: what is held of the step.
        trained: what its optimizer trains.
        values: the value of each term.
        sent: the terms whose values had to be waited for.
        norms: the norm of the gradient of each term.
        gradients: the norm of the gradient of each parameter, where it was looked at.
    """

    def __init__(
        self, held: Held, trained: Trained, values: dict[str, float], norms: dict[str, float],
        names: Sequence[Sequence[str]], reading: Reading, looked: bool,
    ) -> None:  # fmt: skip
        self.held = held
        self.trained = trained
        self.values = values
        self.norms = norms
        self.sent = tuple(names[0])
        self.gradients: dict[str, float] | None = None
        self.reading = reading
        self._names = names
        self._looked = looked

    def read(self) -> Late:
        """Take the numbers; waits for them where they have not arrived."""
        numbers = iter(self.reading.numbers())
        values, norms, gradients = ({name: next(numbers) for name in one} for one in self._names)
        self.values = {**self.values, **values}
        self.norms = {**self.norms, **norms}
        self.gradients = gradients if self._looked else None
        return self


class Lagging:
    """The steps that are under way, and a copy of the parameters of the first bad one.

    Args:
        training: what the optimizers train.
        memory: how many bytes the copy may take.
    """

    def __init__(self, training: Training, memory: int) -> None:
        self.values: dict[str, Tensor] = {}
        """The value of each term of the step in progress, on its device."""
        self.norms: dict[str, Tensor] = {}
        """The norm of the gradient of each term of the step in progress, on its device."""
        self._training = training
        self._memory = memory
        self._waiting: deque[Late] = deque()
        self._snapshot: Snapshot | None = None
        self._refused = False

    def send(
        self,
        held: Held,
        values: dict[str, float],
        norms: dict[str, float],
        trained: Trained,
        gradients: Sequence[Tensor | None],
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        """Send the numbers of a step on their way."""
        given = [grad for grad in gradients if grad is not None]
        names = [n for n, grad in zip(trained.names, gradients, strict=False) if grad is not None]
        numbers = [*self.values.values(), *self.norms.values(), *norms_of(given)]
        if numbers:
            packed = torch.stack([_number(one, trained.device) for one in numbers])
            snapshot = self._copy() if gradients else None
            if snapshot is not None:
                snapshot.renew()
                snapshot.judge(packed)
            looked = bool(gradients) and not trained.left_out(optimizer)
            parts = (list(self.values), list(self.norms), names)
            self._waiting.append(Late(held, trained, values, norms, parts, Reading(packed), looked))
        self.values, self.norms = {}, {}

    def arrived(self) -> list[Late]:
        """The steps whose numbers are there, in their order."""
        found = []
        while self._waiting and self._waiting[0].reading.ready():
            found.append(self._waiting.popleft().read())
        return found

    def rest(self) -> list[Late]:
        """All steps that are under way; waits for them."""
        found = [late.read() for late in self._waiting]
        self._waiting.clear()
        return found

    def as_it_was(self) -> AbstractContextManager[None]:
        """A context with the parameters of the first step in which something was not finite."""
        return nullcontext() if self._snapshot is None else self._snapshot.restored()

    @property
    def has_copy(self) -> bool:
        """Whether there is a copy of the parameters."""
        return self._snapshot is not None

    def release(self) -> None:
        """Let go of everything."""
        self._waiting.clear()
        self._snapshot = None

    def _copy(self) -> Snapshot | None:
        if self._snapshot is None and not self._refused:
            parameters = self._training.local_parameters()
            self._refused = parameters is None or bytes_of(parameters) > self._memory
            if parameters is not None and not self._refused:
                self._snapshot = Snapshot(parameters)
        return self._snapshot


def _number(value: Tensor, device: torch.device) -> Tensor:
    number = value if value.dim() == 0 else value.double().mean()
    return number.to(device=device, dtype=torch.float32, non_blocking=True)
