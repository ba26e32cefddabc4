"""Whose code a stack frame belongs to, and where in its source it stands."""

from __future__ import annotations

import ast
import linecache
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

import torch

from lossproof.checks.report import Location

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_DEMO = os.path.join(_OURS, "demo")
"""The losses in it are such as users write, and are looked at as theirs."""
_CALLERS = (
    *(str(Path(__file__).with_name(name)) for name in ("examination.py", "witness.py")),
    str(Path(_OURS, "watcher", "replay.py")),
)
"""Where we call the loss: what stands further out on the stack is whoever asked for it."""


def _library_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names} | set(site.getsitepackages())
    folders.add(site.getusersitepackages())
    return tuple(sorted(folder for folder in folders if folder))


_LIBRARIES = _library_folders()


def _within(file: str, place: str) -> bool:
    """Whether a file is this one or lies in this folder (`torchvision` is not in `torch`)."""
    return file == place or file.startswith(place.rstrip(os.sep) + os.sep)


@lru_cache(maxsize=4096)
def is_machinery(file: str) -> bool:
    """Whether code of this file is torch's or ours, or has no file at all (frozen modules)."""
    if file.startswith("<"):
        # `<stdin>`, `<ipython-input-...>` and `<string>` may be the user's.
        return file.startswith("<frozen") or not linecache.getline(file, 1)
    return _within(file, _TORCH) or (_within(file, _OURS) and not _within(file, _DEMO))


@lru_cache(maxsize=4096)
def accelerates(file: str) -> bool:
    """Whether code of this file belongs to ``lossproof.speed``."""
    return _within(file, os.path.join(_OURS, "speed"))


@lru_cache(maxsize=4096)
def is_library(file: str) -> bool:
    """Whether this file is part of the standard library or of an installed package."""
    return any(_within(file, folder) for folder in _LIBRARIES)


@dataclass(frozen=True)
class Site:
    """Where an operation was called from, cheap to take and turned into text only when asked.

    ``inner`` is the innermost frame that is neither torch's nor ours; ``own`` the innermost one in
    the user's own code. They are the same unless the operation happened inside a third-party
    library that the user's loss calls.
    """

    inner: tuple[CodeType, int] | None
    own: tuple[CodeType, int] | None
    accelerated: bool = False
    """Whether ``lossproof.speed`` stands between: it, and not the user, called the operation."""

    @property
    def location(self) -> Location | None:
        """The place in the user's own code, or in the library where there is none."""
        place = self.own or self.inner
        return None if place is None else locate(*place)

    @property
    def library_location(self) -> Location | None:
        """The place in the third-party code, where the operation happened in some."""
        if self.inner is None or self.inner == self.own or self.own is None:
            return None
        return locate(*self.inner)

    @property
    def text(self) -> str:
        """The expression at the location, or its line."""
        return excerpt(self.location)


def locate(code: CodeType, instruction: int) -> Location:
    """The source span of an instruction; without columns before Python 3.11."""
    return _located(code, code.co_filename, instruction)


@lru_cache(maxsize=4096)
def _located(code: CodeType, file: str, instruction: int) -> Location:
    """The same; the file is an argument because code of two files may compare equal."""
    name = getattr(code, "co_qualname", code.co_name)
    if hasattr(code, "co_positions"):
        span = next(islice(code.co_positions(), instruction // 2, None), None)
        line, end_line, column, end_column = span or (None, None, None, None)
        if line is not None:
            first = linecache.getline(file, line)
            last = linecache.getline(file, end_line or line)
            return Location.at(
                file,
                line,
                _character(first, column),
                end_line,
                _character(last, end_column),
                name,
            )
    return Location.at(file, _line(code, instruction), function=name)


def _character(text: str, byte: int | None) -> int | None:
    """Python counts columns in bytes from 0; people count characters from 1."""
    return None if byte is None else len(text.encode()[:byte].decode(errors="ignore")) + 1


def _line(code: CodeType, instruction: int) -> int:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def syntax_tree(file: str) -> ast.Module:
    """The parsed source of a file or of a notebook's cell; empty where it is not Python."""
    return _parsed("".join(linecache.getlines(file)))


@lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):  # ValueError: a null character
        return ast.Module([], [])


def excerpt(location: Location | None) -> str:
    """The text of a location: the expression where the columns are known, else the line."""
    if location is None:
        return "?"
    source = location.source or ""
    if (
        location.column is not None
        and location.end_column is not None
        and location.end_line in (None, location.line)
    ):
        return source[location.column - 1 : location.end_column - 1]
    return source.strip()


@dataclass(frozen=True)
class Sources:
    """Tells the user's own files from everybody else's.

    Args:
        root: file or folder of the loss itself. It counts as the user's own even where it lies
            among the installed packages, so that a library's loss can be checked, too.
    """

    root: str | None = None
    _known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def owns(self, file: str) -> bool:
        """Whether this file is the user's own."""
        known = self._known.get(file)
        if known is None:
            inside = self.root is not None and _within(file, self.root)
            known = not is_machinery(file) and (inside or not is_library(file))
            self._known[file] = known
        return known

    def site(self) -> Site:
        """The site of the call in progress."""
        frame: FrameType | None = sys._getframe(1)
        inner, accelerated = None, False
        while frame is not None and frame.f_code.co_filename not in _CALLERS:
            code = frame.f_code
            if not is_machinery(code.co_filename):
                place = (code, frame.f_lasti)
                inner = inner or place
                if self.owns(code.co_filename):
                    return Site(inner, place, accelerated)
            elif not accelerated:
                accelerated = accelerates(code.co_filename)
            frame = frame.f_back
        return Site(inner, None, accelerated)

    def frames(self) -> Iterator[FrameType]:
        """The frames of the user's own code, from the innermost to where the loss was called."""
        return (frame for frame, _ in self.calls())

    def calls(self) -> Iterator[tuple[FrameType, FrameType]]:
        """The same frames, each with the frame of what it has called."""
        called = sys._getframe(0)
        frame = called.f_back
        while frame is not None and frame.f_code.co_filename not in _CALLERS:
            if self.owns(frame.f_code.co_filename):
                yield frame, called
            called, frame = frame, frame.f_back

    def frame(self) -> FrameType | None:
        """The innermost frame of the user's own code."""
        return next(self.frames(), None)

    def of_exception(self, error: BaseException) -> Location | None:
        """Where in the user's own code an exception came from."""
        found = None
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if self.owns(code.co_filename):
                found = locate(code, trace.tb_lasti)
            trace = trace.tb_next
        return found
