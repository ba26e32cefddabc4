"""What a computation depends on besides its inputs: autocast and the states of random generators.

Who computes something again later must find both as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor
States = tuple[tuple[torch.device, Tensor], ...]
"""What the random generator of each device is about to draw from."""


@dataclass(frozen=True)
class Autocast:
    """Whether autocast is on for a kind of device, and what it computes in."""

    device: str
    enabled: bool
    dtype: torch.dtype


@dataclass(frozen=True)
class Surroundings:
    """Autocast and the random generators, as they were at some time."""

    autocast: tuple[Autocast, ...]
    cpu_generator: Tensor
    generators: States

    @contextmanager
    def autocast_again(self) -> Iterator[None]:
        """Inside, autocast is what it was."""
        with autocast_as(self.autocast):
            yield

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, everything is as it was; afterwards the generators go on from where they are."""
        devices = [device for device, _ in self.generators]
        with generators_kept(devices), autocast_as(self.autocast):
            torch.set_rng_state(self.cpu_generator)
            _set(self.generators)
            yield


@contextmanager
def generators_kept(devices: Iterable[torch.device]) -> Iterator[None]:
    """Afterwards the random generators of the CPU and of these devices are what they were."""
    before = _states(devices)
    with torch.random.fork_rng([]):
        try:
            yield
        finally:
            _set(before)


def _states(devices: Iterable[torch.device]) -> States:
    return tuple(
        (device, torch.get_device_module(device).get_rng_state(*_of(device))) for device in devices
    )


def _set(states: States) -> None:
    for device, state in states:
        torch.get_device_module(device).set_rng_state(state, *_of(device))


def _of(device: torch.device) -> tuple[torch.device, ...]:
    """How a device is told which of its kind it is: of Apple's there is one alone."""
    return () if device.type == "mps" else (device,)


def accelerators(devices: Iterable[torch.device]) -> list[torch.device]:
    """Those among the devices that there are, and that have random generators of their own."""
    apart = {device for device in devices if device.type not in {"cpu", "meta"}}
    there = (one for one in apart if torch.get_device_module(one).is_available())
    return sorted(there, key=str)


def plain_precision(device: str) -> AbstractContextManager[Any]:
    """Inside, autocast is off; a kind of device that has none needs nothing."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


@contextmanager
def autocast_as(settings: Iterable[Autocast]) -> Iterator[None]:
    """Inside, autocast is set so.

    Nothing is cached: a copy that is made while no gradients are recorded would be found by whoever
    records them later, and would have none.
    """
    with ExitStack() as stack:
        for one in settings:
            stack.enter_context(
                torch.autocast(
                    one.device, enabled=one.enabled, dtype=one.dtype, cache_enabled=False
                )
            )
        yield


def autocast_now(tensors: Iterable[Tensor]) -> tuple[Autocast, ...]:
    """Autocast for the kinds of devices that these tensors lie on, and for the CPU."""
    kinds = sorted({"cpu"} | {tensor.device.type for tensor in tensors})
    return tuple(
        Autocast(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in kinds
        if torch.amp.is_autocast_available(kind)
    )


def surroundings(tensors: Iterable[Tensor]) -> Surroundings:
    """What these tensors are computed with at the moment."""
    tensors = list(tensors)
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu")}
    states = _states(accelerators(devices))
    return Surroundings(autocast_now(tensors), torch.get_rng_state(), states)


def drawn_between(before: Surroundings, after: Surroundings) -> bool:
    """Whether random numbers were drawn in between."""
    earlier = [before.cpu_generator, *(state for _, state in before.generators)]
    later = [after.cpu_generator, *(state for _, state in after.generators)]
    return not all(map(torch.equal, earlier, later))
