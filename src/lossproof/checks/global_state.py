"""What belongs to the whole process: settings, random numbers, where is printed.

A check calls the loss hundreds of times, and each call may change any of it. So each call puts it
back; and the check as a whole does, because what ends it (its time limit, Ctrl-C) may come in the
very moment in which a call puts things back.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lossproof.checks.time_limit import end_what_is_open

ONE_AT_A_TIME = threading.RLock()
"""Held by the thread that changes settings for a while, which are those of all threads."""


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


# The process-wide settings that a loss has no business changing: how to read and write each.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch.set_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.set_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.set_num_threads": (torch.get_num_threads, torch.set_num_threads),
    "torch.use_deterministic_algorithms": (
        _deterministic,
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
    ),
    "torch.autograd.set_detect_anomaly": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "numpy.seterr": (np.geterr, lambda how: np.seterr(**how)),
}


def global_settings() -> dict[str, Any]:
    """What each setting is at present."""
    return {name: read() for name, (read, _) in SETTINGS.items()}


def _put_back(before: dict[str, Any]) -> None:
    for name, (read, write) in SETTINGS.items():
        if read() != before[name]:
            write(before[name])


@contextlib.contextmanager
def kept_settings(*, compiled: bool = False) -> Iterator[None]:
    """Put all process-wide settings back afterwards; nothing is compiled meanwhile by default."""
    before = global_settings()
    try:
        with _compiling() if compiled else _eagerly():
            yield
    finally:
        _put_back(before)


def _eagerly() -> contextlib.AbstractContextManager[Any]:
    """Run what is compiled within the loss as Python: compiled code cannot be looked into."""
    if not _dynamo_is_loaded():
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _compiling() -> contextlib.AbstractContextManager[Any]:
    """Let what is compiled within the loss be compiled."""
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("default")
    return stance


@contextlib.contextmanager
def untouched_globals(seed: int, *, compiled: bool = False) -> Iterator[None]:
    """Seed every random number generator, and put them and all settings back afterwards."""
    put_back = _generators_kept()
    # `torch.manual_seed` looks for every kind of device, which takes longer than a small loss.
    torch.default_generator.manual_seed(seed)
    if _cuda_in_use():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with kept_settings(compiled=compiled):
            yield
    finally:
        put_back()


def _generators_kept() -> Callable[[], None]:
    """What puts all generators back to where they are now."""
    state, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if _cuda_in_use() else None

    def put_back() -> None:
        torch.set_rng_state(state)
        random.setstate(python)
        np.random.set_state(numpy)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return put_back


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def globals_restored() -> Iterator[None]:
    """A context after which everything here is what it was, wherever the block was interrupted.

    To stand around a time limit, and around all that Ctrl-C may end. Another thread waits here
    until it is over: what one check sets would be what the other finds, and puts back for good.
    """
    with ONE_AT_A_TIME:
        yield from _restored()


def _restored() -> Iterator[None]:
    settings, generators, stance = global_settings(), _generators_kept(), _stance_kept()
    output, errors = sys.stdout, sys.stderr
    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    try:
        with warnings.catch_warnings():
            yield
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C
            end_what_is_open(error)
        raise
    finally:
        sys.stdout, sys.stderr = output, errors
        logger.setLevel(level)
        stance()
        generators()
        _put_back(settings)


def _stance_kept() -> Callable[[], None]:
    """What lets code be compiled, or not, as it is now."""
    if not _dynamo_is_loaded():  # which takes a second, and may not be needed
        return _compile_as_usual
    changed = torch.compiler.set_stance("default")  # it knows what was before

    def put_back() -> None:
        changed.__exit__(None, None, None)

    put_back()
    return put_back


def _compile_as_usual() -> None:
    if _dynamo_is_loaded():  # by now
        torch.compiler.set_stance("default")


def _dynamo_is_loaded() -> bool:
    return "torch._dynamo" in sys.modules
