"""Everything that performing a step again could change, put back afterwards."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import grad_mode
from torch.optim import Optimizer
from torch.utils.data import Dataset

from lossproof.checks.global_state import ONE_AT_A_TIME, kept_settings
from lossproof.checks.sources import Sources
from lossproof.checks.state import State
from lossproof.watcher.record import Call

Tensor = torch.Tensor

LARGE = 2**22
"""Tensors with more elements that are no buffers are data, of which no copy is made."""

LOOKED_INTO = (
    nn.Module, Tensor, type, FunctionType, MethodType, functools.partial, random.Random,
    dict, list, tuple, set, deque,
)  # fmt: skip
"""What is no object of a library, though its class may be."""
SOURCES = Sources()
AUTOCAST = ("cpu", "cuda")
"""The devices whose autocast a call is recorded with."""


class _State(State):
    """What the functions of a step remember, without a copy of the parameters and of the data."""

    def __init__(self, modules: Sequence[nn.Module], functions: Sequence[Any]) -> None:
        self._own = {id(buffer) for module in modules for buffer in module._buffers.values()}
        super().__init__([*modules, *functions], SOURCES)

    def _visit(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, (nn.Parameter, Optimizer, Dataset)) or _is_foreign(value):
            return
        if isinstance(value, Tensor) and id(value) not in self._own:
            if value.numel() > LARGE or value.grad_fn is not None:
                return
        super()._visit(path, value, depth)

    def tensors(self) -> list[Tensor]:
        """The tensors that were found."""
        return [value for value in self._seen.values() if isinstance(value, Tensor)]


def _is_foreign(value: Any) -> bool:
    """Whether this is an object of a library, such as a trainer, which no loss writes to."""
    if not hasattr(value, "__dict__") or isinstance(value, LOOKED_INTO):
        return False
    file = getattr(sys.modules.get(type(value).__module__), "__file__", None)
    return file is not None and not SOURCES.owns(file)


@contextlib.contextmanager
def everything_kept(calls: Sequence[Call], model: nn.Module) -> Iterator[None]:
    """Put buffers, what the functions remember, random numbers and settings back afterwards.

    What is not put back is what the step writes outside of the program, such as a log. Another
    thread waits here until it is over.
    """
    with ONE_AT_A_TIME:
        yield from _kept(calls, model)


def _kept(calls: Sequence[Call], model: nn.Module) -> Iterator[None]:
    functions = [call.function for call in calls]
    owners = [model, *(function for function in functions if isinstance(function, nn.Module))]
    # The innermost first: a search from the outermost would end at a depth.
    modules = [module for owner in owners for module in owner.modules()][::-1]
    state = _State(modules, functions)
    python, numpy = random.getstate(), np.random.get_state()
    generators = {device: get_generator(device) for call in calls for device in call.generators}
    tensors = [*state.tensors(), *(one for module in modules for one in module.parameters(False))]
    try:
        with _versions_kept(tensors), contextlib.ExitStack() as stack:
            stack.enter_context(kept_settings())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for device_type in AUTOCAST:  # each call has its own
                if torch.is_autocast_enabled(device_type):
                    stack.enter_context(torch.autocast(device_type, enabled=False))
            yield
    finally:
        state.restore()
        random.setstate(python)
        np.random.set_state(numpy)
        for device, kept in generators.items():
            set_generator(device, kept)


@contextlib.contextmanager
def _versions_kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put the version counters back: numbers that are restored are what a graph has saved."""
    with contextlib.ExitStack() as stack:
        for tensor in tensors:
            if not tensor.is_inference():
                stack.enter_context(grad_mode._unsafe_preserve_version_counter(tensor))
        yield


def get_generator(device: torch.device) -> Tensor:
    """The state of the random number generator of a device."""
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = getattr(torch, device.type).get_rng_state(device)
    return state


def set_generator(device: torch.device, state: Tensor) -> None:
    """Set the state of the random number generator of a device."""
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        getattr(torch, device.type).set_rng_state(state, device)
