"""Losses of the catalogue as known losses, where no family here describes them.

A family holds the terms of a loss and the slips people make with them. A loss of the catalogue is
one term: it can be recognised and proved, and what differs from it is left open. It is imported
when a name claims to be it, for most checks ask for none.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lossproof
from lossproof.checks.likeness.known import Binding, KnownLoss, Reading, Slot, Term, Terms

if TYPE_CHECKING:
    from lossproof.losses.catalogue import CatalogueEntry

_DEFINED = re.compile(r"^def ([a-z]\w*_loss)\(", re.MULTILINE)


@functools.lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    """The names of the catalogue's functions, read without importing them."""
    files = (Path(lossproof.__file__).parent / "losses").glob("*.py")
    return tuple(name for f in files for name in _DEFINED.findall(f.read_text(encoding="utf-8")))


def claimed_in_catalogue(words: str) -> tuple[KnownLoss, ...]:
    """The losses of the catalogue that a name claims to be.

    Args:
        words: the words of the name, lower case, separated by single spaces.
    """
    claimed = [name for name in _names() if re.search(_called(name), words)]
    if not claimed:
        return ()
    from lossproof.losses.catalogue import catalogue

    entries = [entry for entry in catalogue() if entry.name in claimed and entry.function]
    return tuple(map(_known, entries))


def _called(name: str) -> str:
    return rf"\b{name.replace('_', ' ')}\b"


def _known(entry: CatalogueEntry) -> KnownLoss:
    words = entry.name.replace("_", " ")
    return KnownLoss(
        key=entry.name.replace("_", "-"),
        name=f"the {words} of the catalogue",
        source=_source(entry),
        called=_called(entry.name),
        roles=functools.partial(_in_order, _arguments(entry)),
        readings=tuple(Reading(_definition(entry, how)) for how in _reductions(entry)),
        ordered=False,
    )


def _source(entry: CatalogueEntry) -> str:
    _, _, source = entry.doc.partition("Source:\n")
    return " ".join(source.split()) or entry.name


def _arguments(entry: CatalogueEntry) -> tuple[str, ...]:
    assert entry.function is not None
    parameters = inspect.signature(entry.function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)


def _in_order(names: tuple[str, ...], slots: tuple[Slot, ...]) -> Iterator[Binding]:
    """The tensors in the order of the signature; those after them have defaults."""
    if 0 < len(slots) <= len(names):
        yield dict(zip(names, slots, strict=False))


def _reductions(entry: CatalogueEntry) -> tuple[str | None, ...]:
    """Ways of making one number; a mean may divide by what only it knows."""
    assert entry.function is not None
    reduces = "reduction" in inspect.signature(entry.function).parameters
    return ("mean", "sum") if reduces else (None,)


def _definition(entry: CatalogueEntry, reduction: str | None) -> Callable[..., Terms]:
    """The loss as one term; its numbers are options that the loss under check may have set."""
    function = entry.function
    assert function is not None
    fixed: dict[str, Any] = dict(entry.options)
    if reduction is not None:
        fixed["reduction"] = reduction

    def terms(**given: Any) -> Terms:
        return {entry.name: Term(function(**{**fixed, **given}).reshape(1))}

    numbers = [
        p.replace(default=(p.default,), annotation=inspect.Parameter.empty)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and isinstance(p.default, float)
    ]
    terms.__signature__ = inspect.Signature(numbers)  # type: ignore[attr-defined]
    return terms
