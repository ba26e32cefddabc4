"""A time limit on running Python code, in any thread and on any system.

A watching thread asks the interpreter to raise an exception in the watched thread. The exception
is a ``BaseException`` of its own, so that a loop around ``except Exception`` cannot swallow it; if
something swallows it all the same, it is raised again until the code has ended. What no Python
exception can reach is a call that never returns from C (``time.sleep(1e6)``): the command line
guards against that by a process of its own (:mod:`lossproof.checks.process`).
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import sysconfig
import threading
from types import FrameType, TracebackType

from lossproof.errors import TimeLimitError

REPEAT_SECONDS = 0.05
"""How long after the exception was raised it is raised again, if the code still runs."""


class _Interrupted(BaseException):
    """Raised inside the watched code. Each limit has a subclass, so that nested ones differ."""


class time_limit:  # noqa: N801 - used as a statement: `with time_limit(1.0):`
    """End the block with a :class:`~lossproof.errors.TimeLimitError` after ``seconds``.

    Limits nest; the one that ends first raises. A block that was interrupted raises the error
    however it ended, also where it swallowed the interruption and went on.

    Args:
        seconds: positive wall-clock time; ``None`` or ``inf`` for no limit.

    Raises:
        TimeLimitError: at the end of the block. Its ``location`` is ``(file, line, function)`` of
            the user's frame that was running when the time was up.
        ValueError: ``seconds`` is not positive.

    Example:
        >>> from lossproof.errors import TimeLimitError
        >>> try:
        ...     with time_limit(0.01):
        ...         while True:
        ...             pass
        ... except TimeLimitError as error:
        ...     print(error)
        still running after 0.01 s
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"`seconds` must be positive or None, got {seconds!r}")
        self.seconds = None if seconds is None or math.isinf(seconds) else float(seconds)

    def __enter__(self) -> None:
        if self.seconds is not None:
            self._watch = _Watch(self.seconds, sys._getframe(1))
            self._watch.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.seconds is None:
            return
        location = self._watch.stop()
        if location is None or isinstance(error, KeyboardInterrupt):
            return
        if isinstance(error, _Interrupted) and not isinstance(error, self._watch.interrupted):
            return  # an enclosing limit's, which that one converts
        raise TimeLimitError(f"still running after {self.seconds:g} s", location) from error


class _Watch(threading.Thread):
    """Waits for the end of the time, then interrupts the thread that made it until stopped."""

    def __init__(self, seconds: float, owner: FrameType) -> None:
        super().__init__(name="lossproof time limit", daemon=True)
        self.seconds = seconds
        self.owner = owner
        self.watched = threading.get_ident()
        self.interrupted = type("Interrupted", (_Interrupted,), {})
        self.location: tuple[str, int, str] | None = None
        self.stopped = False
        self.changed = threading.Condition(threading.Lock())

    def run(self) -> None:
        wait = self.seconds
        with self.changed:
            while not self.changed.wait_for(lambda: self.stopped, wait):
                self._interrupt()
                wait = REPEAT_SECONDS

    def _interrupt(self) -> None:
        frame = sys._current_frames().get(self.watched)
        if frame is None or not _calls(self.owner, frame):
            self.stopped = True  # the block was left without being closed, as by a dead thread
            return
        if self.location is None:
            self.location = _user_location(frame, self.owner)
        _raise_in(self.watched, self.interrupted)

    def stop(self) -> tuple[str, int, str] | None:
        """Interrupt no more, and tell where the code was if it was interrupted.

        An interruption may arrive at any of these lines, so they run until they ran undisturbed.
        One that was requested but has not arrived is withdrawn. Should it have been an enclosing
        limit's, that one makes it again.
        """
        while True:
            try:
                with self.changed:
                    self.stopped = True
                    self.changed.notify()
                _raise_in(self.watched, None)
                return self.location
            except _Interrupted:
                continue


def _raise_in(thread: int, interruption: type[BaseException] | None) -> None:
    """Request that the exception be raised in the thread; ``None`` withdraws the request."""
    what = ctypes.py_object() if interruption is None else ctypes.py_object(interruption)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


def _calls(caller: FrameType, frame: FrameType | None) -> bool:
    """Whether ``frame`` is ``caller`` or was called from it, at any depth."""
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is not None


def _user_location(frame: FrameType, owner: FrameType) -> tuple[str, int, str]:
    """Where the user's code is: the innermost frame of the block that is not a library's."""
    libraries = _library_folders()
    place: FrameType | None = frame
    while place is not None and place is not owner:
        if not place.f_code.co_filename.startswith(libraries):
            return _place(place)
        place = place.f_back
    return _place(frame)


def _place(frame: FrameType) -> tuple[str, int, str]:
    return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name


def _library_folders() -> tuple[str, ...]:
    """The folders of lossproof, torch and the standard library, which are not the user's."""
    folders = [os.path.dirname(os.path.dirname(__file__))]
    if torch := sys.modules.get("torch"):
        folders.append(os.path.dirname(str(torch.__file__)))
    folders.append(sysconfig.get_paths()["stdlib"])
    return tuple(folder + os.sep for folder in folders)
