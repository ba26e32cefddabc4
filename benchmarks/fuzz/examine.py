"""One call, made twice, and all that may not come of it.

A call returns, or it raises a ``TypeError`` or ``ValueError`` that names an argument (or an error
that its page speaks of). It changes nothing, warns of nothing but what its page says, returns
finite numbers for what is finite and valid, does the same a second time, and comes to an end.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import rich.table  # noqa: F401  # draws from Python's random numbers when it is first imported
import torch

from benchmarks.fuzz.kept import Given, leaves_of, random_states, same, set_random_states, settings

Tensor = torch.Tensor
PATIENCE = 10.0
"""Seconds of the processor after which a call counts as hung."""
USERS_OWN = "users_own.py"
"""The file of what a user would write: an error that begins there is no error of ours."""


class HungError(BaseException):
    """A call did not come to an end."""


@dataclass
class Call:
    """One call, as it is about to be made.

    Args:
        run: makes the call; returns what came of it, with its gradients.
        given: all that it is given.
        names: what an error may name: arguments, options, terms.
        ordinary: whether all of it is valid and finite, so that the result is finite.
        draws: whether it may take from the random generators.
        fills: the tensors whose ``.grad`` it is there to fill.
        errors: other errors that its page speaks of, and a pattern of their words.
        warns: patterns of the warnings that its page speaks of.
        dtype: what the result must have, where that is known.
    """

    run: Callable[[], Any]
    given: Any
    names: frozenset[str]
    ordinary: bool = False
    draws: bool = False
    fills: Sequence[Tensor] = ()
    errors: tuple[tuple[type[Exception], str], ...] = ()
    warns: tuple[str, ...] = ()
    dtype: torch.dtype | None = None


@dataclass
class Outcome:
    """What came of a call.

    Args:
        kind: ``"returned"``, ``"refused"`` (in words that name an argument), ``"documented error"``
            or ``"user's own error"``.
        faults: what may not be, in words.
    """

    kind: str
    faults: list[str] = field(default_factory=list)
    words: str = ""


def examined(make: Callable[[], Call]) -> Outcome:
    """Make a call, and once more from the beginning."""
    first = _made(make())
    if first.faults:
        return first.outcome()
    second = _made(make())
    if (first.kind, first.words) != (second.kind, second.words):
        first.faults.append(f"the second time: {second.kind} {second.words[:200]}")
    elif not same(first.value, second.value):
        first.faults.append("gives something else the second time")
    return first.outcome()


@dataclass
class _Made:
    kind: str
    words: str = ""
    value: Any = None
    faults: list[str] = field(default_factory=list)

    def outcome(self) -> Outcome:
        return Outcome(self.kind, self.faults, self.words)


def _made(call: Call) -> _Made:
    set_random_states()
    given, of_process, generators = Given(call.given, call.fills), settings(), random_states()
    start = time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # torch's own, where numpy is given a tensor; it depends on what else was imported.
        warnings.filterwarnings("ignore", "__array_wrap__ must accept", DeprecationWarning)
        made = _run(call)
    took = time.process_time() - start
    made.faults += [f"{what} after the call" for what in given.changes()]
    made.faults += [
        f"{name} is another" for name, now in settings().items() if of_process[name] != now
    ]
    for name, now in random_states().items():
        if not call.draws and not same(generators[name], now):
            made.faults.append(f"the random numbers of {name} are others")
    made.faults += _undocumented(warned, call.warns)
    if took > PATIENCE / 2:
        made.faults.append(f"took {took:.1f} s")
    return made


def _run(call: Call) -> _Made:
    try:
        with _bounded(PATIENCE):
            value = call.run()
    except HungError:
        return _Made("hung", faults=["does not come to an end"])
    except Exception as error:
        return _refusal(call, error)
    return _Made("returned", value=value, faults=list(_unlike(call, value)))


def _unlike(call: Call, value: Any) -> Iterator[str]:
    """What is wrong with what came of a call."""
    tensors = [(place, one) for place, one in leaves_of(value) if isinstance(one, Tensor)]
    if call.dtype is not None and tensors and tensors[0][1].dtype != call.dtype:
        yield f"returns {tensors[0][1].dtype} for {call.dtype}"
    if not call.ordinary:
        return
    for place, one in tensors:
        if one.is_floating_point() and not one.isfinite().all():
            yield f"result{place} is not finite for what is finite and valid"


def _refusal(call: Call, error: Exception) -> _Made:
    words = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if any(isinstance(error, kind) and re.search(said, words) for kind, said in call.errors):
        return _Made("documented error", words)
    if isinstance(error, TypeError | ValueError) and _names(str(error), call.names):
        return _Made("refused", words)
    if any(frame.filename.endswith(USERS_OWN) for frame in frames):
        return _Made("user's own error", words)
    last = frames[-1]
    where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
    ours = [frame for frame in frames if "lossproof/" in frame.filename]
    if ours:
        where = f"{ours[-1].filename.rpartition('lossproof/')[2]}:{ours[-1].lineno}"
    return _Made("wrong error", words, faults=[f"raises {words[:300]} ({where})"])


def _names(message: str, names: frozenset[str]) -> bool:
    """Whether an error says what it is about."""
    if re.search(r"(missing|unexpected|multiple values|positional argument|no option)", message):
        return True  # Python's own words about a signature, or ours
    if any(" " in name and name in message for name in names):
        return True
    quoted = re.findall(r"`([^`]*)`|'([^']*)'", message)
    words = {word for both in quoted for text in both for word in re.findall(r"\w+", text)}
    return bool(words & names)


def _undocumented(
    warned: Sequence[warnings.WarningMessage], documented: Sequence[str]
) -> Iterator[str]:
    for one in warned:
        words = str(one.message)
        if not any(re.search(pattern, words) for pattern in documented):
            yield f"warns: {type(one.message).__name__}: {words[:200]}"


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Inside, :class:`HungError` is raised after so many seconds of the processor."""
    if (
        not hasattr(signal, "SIGVTALRM")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ended(number: int, frame: Any) -> None:
        raise HungError

    before = signal.signal(signal.SIGVTALRM, ended)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def with_gradients(value: Any, leaves: Sequence[Any]) -> Any:
    """What a loss gave, and its gradients in those of the leaves that require one."""
    wanted = [one for one in leaves if isinstance(one, Tensor) and one.requires_grad]
    if not isinstance(value, Tensor) or not value.requires_grad or not wanted:
        return value
    if value.is_complex():
        return value.detach()
    slopes = torch.autograd.grad(value.sum(), wanted, allow_unused=True)
    return [value.detach(), *(one for one in slopes if one is not None)]
