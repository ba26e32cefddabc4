"""Which of some ways to compute the same takes the least time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor

HOPELESS = 2.0
"""What took so many times as long as the fastest, twice, is not tried again."""
ROUNDS, MOST_ROUNDS = 5, 50
SECONDS, MOST_SECONDS = 0.1, 1.0
"""Short steps are repeated until the one is over, long ones no longer than the other."""


def times(steps: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """The time of each step in seconds: the least of rounds in which each takes its turn.

    A busy machine is then busy for all. With one thread on a CPU it is the time of the processor,
    of which others take nothing.

    Args:
        steps: what is run, each once before it is timed.
        device: where it runs; it is waited for.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    live = dict(steps)
    for name, step in steps.items():
        try:
            step()
        except torch.OutOfMemoryError:
            del live[name]
    begin = time.perf_counter()
    with _no_garbage_collection():
        while _another(len(max(taken.values(), key=len)), time.perf_counter() - begin):
            for name, step in live.items():
                taken[name].append(_timed(step, device))
            live = _worth_another(live, taken)
            if len(live) == 1:
                break
    return {name: min(rounds) for name, rounds in taken.items() if rounds}


def _worth_another(
    live: Mapping[str, Callable[[], object]], taken: Mapping[str, list[float]]
) -> dict[str, Callable[[], object]]:
    least = {name: min(taken[name]) for name in live}
    limit = HOPELESS * min(least.values())
    return {
        name: step for name, step in live.items() if len(taken[name]) < 2 or least[name] <= limit
    }


def _another(rounds: int, seconds: float) -> bool:
    if rounds < ROUNDS:
        return seconds < MOST_SECONDS or rounds < 2
    return rounds < MOST_ROUNDS and seconds < SECONDS


def _timed(step: Callable[[], object], device: torch.device) -> float:
    wait(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    begin = clock()
    step()
    wait(device)
    return clock() - begin


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type not in {"cpu", "meta"}:
        torch.get_device_module(device).synchronize(device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def left_as_it_was(modules: Iterable[nn.Module], tensors: Iterable[Tensor]) -> Iterator[None]:
    """Afterwards torch's random numbers, and the attributes of Modules, are as they were.

    What autograd saves meanwhile is shown to no hooks.
    """
    devices = sorted({tensor.device.index for tensor in tensors if tensor.is_cuda})
    parts = [part for module in modules for part in module.modules()]
    attributes = [dict(vars(part)) for part in parts]
    held = [one for had in attributes for one in had.values() if isinstance(one, list | dict)]
    contents: list[Any] = [one.copy() for one in held]
    try:
        with torch.random.fork_rng(devices), unseen_by_hooks():
            yield
    finally:
        for part, had in zip(parts, attributes, strict=True):
            _put_back(vars(part), had)
        for one, content in zip(held, contents, strict=True):
            if isinstance(one, dict):
                _put_back(one, content)
            elif list(map(id, one)) != list(map(id, content)):
                one[:] = content


@contextmanager
def unseen_by_hooks() -> Iterator[None]:
    """Inside, what autograd saves is shown to no hooks: a checkpoint counts what it sees."""
    if (
        not _hooks_look_on()
    ):  # transforms of torch.func refuse any hooks, also those that do nothing
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(_itself, _itself):
        yield


def _hooks_look_on() -> bool:
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("looked for"):
            return False
    except RuntimeError:
        return True


def _put_back(present: dict[Any, Any], before: dict[Any, Any]) -> None:
    for name in present.keys() - before.keys():
        del present[name]
    for name, value in before.items():
        if present.get(name, present) is not value:
            present[name] = value


def _itself(tensor: Tensor) -> Tensor:
    return tensor
