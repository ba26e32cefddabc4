"""The Modules that a function works with, whose state it may change."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import nn


def modules_of(function: Any) -> list[nn.Module]:
    """The Modules a function is seen to use, without their parts.

    The function itself, that of a method or of a ``functools.partial``, attributes of the object a
    method belongs to, and what a function closes over or finds among the globals of its file. What
    lies deeper, such as a Module in a list, is not seen.
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, nn.Module):
            found[id(one)] = one
        elif isinstance(one, functools.partial):
            waiting += [one.func, *one.args, *one.keywords.values()]
        elif isinstance(one, types.MethodType):
            waiting += [one.__self__, one.__func__, *_modules_among(one.__self__)]
        elif isinstance(one, types.FunctionType):
            waiting += [*_closed_over(one), *(one.__defaults__ or ()), *_named_globals(one)]
    return list(found.values())


def _modules_among(owner: Any) -> list[nn.Module]:
    if isinstance(owner, nn.Module):  # its parts go with it
        return []
    return [one for one in getattr(owner, "__dict__", {}).values() if isinstance(one, nn.Module)]


def _closed_over(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _named_globals(function: types.FunctionType) -> Iterator[nn.Module]:
    for name in function.__code__.co_names:
        one = function.__globals__.get(name)
        if isinstance(one, nn.Module):
            yield one
