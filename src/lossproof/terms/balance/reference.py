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


def reference_among(reference: str | None, names: Sequence[str]) -> None:
    """The reference, if one was named, is one of the terms.

    Raises:
        ValueError: it is none of them.
    """
    if reference is not None and reference not in names:
        raise ValueError(f"`reference` must be one of the terms {list(names)}, got {reference!r}")
