"""A time limit on running Python code, in any thread and on any system.

A watching thread asks the interpreter to raise an exception in the watched thread. The exception
is a ``BaseException`` of its own, so that a loop around ``except Exception`` cannot swallow it; if
something swallows it all the same, it is raised again until the code has ended. What no Python
exception can reach is a call that never returns from C (``time.sleep(1e6)``): the command line
guards against that by a process of its own (:mod:`lossproof.checks.process`).
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import math
import sys
import threading
import traceback
import weakref
from types import FrameType, TracebackType
from typing import Any

from lossproof.checks.sources import is_library, is_machinery
from lossproof.errors import TimeLimitError
from lossproof.write.arguments import number

REPEAT_SECONDS = 0.05
"""How long after the exception was raised it is raised again, if the code still runs."""


class _Interrupted(BaseException):
    """Raised inside the watched code. Each limit has a subclass, so that nested ones differ."""


def usable_limit(seconds: Any) -> None:
    """The option ``time_limit``: a number above 0, which may be infinite, or ``None``.

    Raises:
        TypeError: it is no number.
        ValueError: it is not above 0.
    """
    endless = seconds is None or (isinstance(seconds, float) and seconds == math.inf)
    if not endless:
        number("time_limit", seconds, above=0)


class time_limit:  # noqa: N801 - used as a statement: `with time_limit(1.0):`
    """End the block with a :class:`~lossproof.errors.TimeLimitError` after ``seconds``.

    Limits nest; the one that ends first raises. A block that was interrupted raises the error
    however it ended, also where it swallowed the interruption and went on.

    The interpreter looks for interruptions at calls and at the end of each turn of a loop. Where
    the last thing in the block is a long operator of torch (``a @ b``), it would find one only
    after the block, as a foreign ``BaseException``: let the block end with a call or a loop.

    Args:
        seconds: positive wall-clock time; ``None`` or ``inf`` for no limit.

    Raises:
        TimeLimitError: at the end of the block. Its ``location`` is ``(file, line, function)`` of
            the user's frame that was running when the time was up.
        ValueError: ``seconds`` is not positive.

    Example:
        >>> from lossproof.errors import TimeLimitError
        >>> def endless():
        ...     while True:
        ...         pass
        >>> try:
        ...     with time_limit(0.01):
        ...         endless()
        ... except TimeLimitError as error:
        ...     print(error)
        still running after 0.01 s
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"`seconds` must be positive or None, got {seconds!r}")
        self.seconds = None if seconds is None or math.isinf(seconds) else float(seconds)

    def __enter__(self) -> None:
        if self.seconds is None:
            return
        self._watch = _Watch(self, self.seconds, sys._getframe(1))
        try:
            self._watch.start()
        except _Interrupted as error:  # the time was up before the block began
            self.__exit__(type(error), error, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.seconds is None:
            return
        while True:  # an interruption may arrive while stopping: stop until nothing interferes
            try:
                location = self._watch.stop()
                break
            except _Interrupted:
                continue
        if location is None or isinstance(error, KeyboardInterrupt):
            return
        if isinstance(error, _Interrupted) and not isinstance(error, self._watch.interrupted):
            return  # an enclosing limit's, which that one converts
        if error is not None:
            end_what_is_open(error)
        raise TimeLimitError(f"still running after {self.seconds:g} s", location) from error


class _Watch:
    """Waits for the end of the time, then interrupts the thread that made it until stopped.

    Plain locks, because an interruption that arrives inside the Python code of ``Condition`` or
    ``Event`` can leave their inner lock taken for ever; acquiring a plain lock is one step.
    """

    def __init__(self, limit: time_limit, seconds: float, owner: FrameType) -> None:
        self.limit = weakref.ref(limit)
        self.seconds = min(seconds, threading.TIMEOUT_MAX)
        self.owner = owner
        self.watched = threading.get_ident()
        self.interrupted = type("Interrupted", (_Interrupted,), {})
        self.location: tuple[str, int, str] | None = None
        self.stopped = False
        self.deciding = threading.Lock()
        self.running = threading.Lock()
        self.watching = threading.Lock()

    def start(self) -> None:
        self.running.acquire()
        self.watching.acquire()
        _thread.start_new_thread(self._watch, ())

    def stop(self) -> tuple[str, int, str] | None:
        """Interrupt no more, and tell where the code was if it was interrupted.

        May be called again when interrupted itself. An interruption that was requested but has
        not arrived is taken here; should it be an enclosing limit's, that one makes it again.
        """
        with self.deciding:
            self.stopped = True
        if self.location is not None:
            self._take_interruption()
        if self.running.locked():
            self.running.release()
        # Wait for the thread's end: one that the interpreter meets at its own end, while it frees
        # the frame with the block's tensors, takes the process down with it.
        with self.watching:
            return self.location

    def _take_interruption(self) -> None:
        """Make one more and let it arrive: then none is under way.

        A request can be withdrawn, but then CPython goes on looking for it at every call and every
        turn of a loop, and 3.11 never gets past such a look under a profiler or a debugger.
        """
        with contextlib.suppress(self.interrupted):
            _raise_in(self.watched, self.interrupted)
            while True:
                pass

    def _watch(self) -> None:
        wait = self.seconds
        try:
            while not self.running.acquire(timeout=wait):
                with self.deciding:
                    if self.stopped or self.limit() is None:
                        return
                    self._interrupt()
                wait = REPEAT_SECONDS
        finally:
            del self.owner
            self.watching.release()

    def _interrupt(self) -> None:
        frame = sys._current_frames().get(self.watched)
        if frame is not None:
            self.location = self.location or _user_place(frame, self.owner)
            _raise_in(self.watched, self.interrupted)


def end_what_is_open(error: BaseException) -> None:
    """Take from the frames that an interruption ended what they hold, the innermost first.

    It may have come between a context's entry and its block, or between the block and the exit.
    If the context is a generator (``contextlib.contextmanager``), this one stays where it yielded,
    held by the traceback, and puts back what the context changed when somebody frees it: out of
    order, and amid whatever is going on by then. Without its holders it does so at once.
    """
    errors: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None and not any(one is other for other in errors):
            errors.append(one)
            pending += [one.__cause__, one.__context__]
    for one in reversed(errors):  # the one that led to the others came from deeper within
        for frame, _ in reversed(list(traceback.walk_tb(one.__traceback__))):
            with contextlib.suppress(RuntimeError):  # it is still running
                frame.clear()


def _raise_in(thread: int, interruption: type[BaseException]) -> None:
    """Request that the exception be raised in the thread."""
    what = ctypes.py_object(interruption)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


def _user_place(frame: FrameType, owner: FrameType) -> tuple[str, int, str]:
    """Where the user's code is: the innermost frame of the block that is not a library's."""
    inside: list[FrameType] = []
    place: FrameType | None = frame
    while place is not None and place is not owner:
        inside.append(place)
        place = place.f_back
    others = [f for f in inside or [owner] if not is_machinery(f.f_code.co_filename)]
    own = [f for f in others if not is_library(f.f_code.co_filename)]
    found = (own or others or [frame])[0]
    return found.f_code.co_filename, found.f_lineno, found.f_code.co_name
