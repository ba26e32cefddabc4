"""What a loss says about itself: its name, its arguments' names, its docstrings, its source."""

from __future__ import annotations

import inspect
import re

from lossproof.checks.subject import Subject


def wording(subject: Subject) -> str:
    """The name of the loss in words, its docstrings, and the names of its arguments.

    `SumOfSquares` and `sum_of_squares` are the same words.
    """
    targets = (
        subject.origin,
        subject.call,
        getattr(subject.call, "forward", None),
        getattr(subject.origin, "func", None),
    )
    documents = [getattr(target, "__doc__", None) or "" for target in targets]
    names = [_words(name) for name in (subject.name, *subject.parameter_names)]
    return "\n".join([*names, *documents])


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ")


def source_of(subject: Subject) -> str:
    """The source of the loss's function or class; nothing where there is none to read."""
    origin = subject.origin
    target = origin if inspect.isroutine(origin) or isinstance(origin, type) else type(origin)
    try:
        return inspect.getsource(target)
    except (OSError, TypeError):
        return ""
