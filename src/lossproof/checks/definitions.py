"""The Python functions that a loss is written in: itself, or the methods of its class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from lossproof.checks.causes.source import FunctionSource, source_of
from lossproof.checks.subject import Subject


def definitions(subject: Subject, *, overridden: bool = False) -> Iterator[FunctionSource]:
    """The sources of a loss: of the function, or of every method that its class has or inherits.

    Only what lies in the user's own files counts (for a library's loss, in the library's).

    Args:
        subject: the loss.
        overridden: methods that a class below overrides, too.
    """
    for function in functions(subject, overridden=overridden):
        source = _source(function)
        if source is not None and subject.sources.owns(source.file):
            yield source


def functions(subject: Subject, *, overridden: bool = False) -> Iterator[Any]:
    """The functions themselves."""
    call: Any = subject.call
    while isinstance(call, functools.partial):
        call = call.func
    owner = getattr(call, "__self__", call)
    if inspect.isfunction(call):
        yield inspect.unwrap(call)
        return
    cls = owner if isinstance(owner, type) else type(owner)
    known: set[str] = set()
    for base in cls.__mro__:
        for name, member in vars(base).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            # A constructor that is overridden still runs, called by the one above it.
            new = overridden or name not in known or name == "__init__"
            if inspect.isfunction(function) and new:
                known.add(name)
                yield inspect.unwrap(function)


def replaces_call(cls: type) -> bool:
    """Whether a class inherits its constructor and replaces the ``forward`` that belongs to it."""
    for name in ("forward", "__call__"):
        owners = [base for base in cls.__mro__ if base is not nn.Module and name in vars(base)]
        if len(owners) > 1:
            return "__init__" not in vars(owners[0])
    return False


@functools.lru_cache(maxsize=256)
def _source(function: Any) -> FunctionSource | None:
    """Reading and parsing a file takes longer than calling a small loss."""
    return source_of(function)
