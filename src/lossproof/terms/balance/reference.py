"""The term that the others are measured by, which an option ``reference`` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def reference_name(given: Any) -> str | None:
    """What the option was given.

    Raises:
        TypeError: it is neither a string nor ``None``.
    """
    if given is not None and not isinstance(given, str):
        raise TypeError(f"`reference` must be the name of a term, got {given!r}")
    return given


def reference_position(reference: str | None, names: Sequence[str]) -> int | None:
    """Where the reference stands among the terms; ``None`` if none was named.

    Raises:
        ValueError: there is no such term.
    """
    if reference is None:
        return None
    if reference not in names:
        raise ValueError(f"`reference` must be one of the terms {list(names)}, got {reference!r}")
    return list(names).index(reference)
