"""The terms in what a loss returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

Tensor = torch.Tensor


def terms_of(result: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of a result, by name.

    Args:
        result: a tensor, or a mapping, tuple or list of such.
        name: what a single tensor is called, and the elements of a tuple or list by their place.

    The terms of a mapping within a mapping are called by both keys: ``"mesh/edges"``.
    """
    if isinstance(result, torch.Tensor):
        if result.is_floating_point() and result.numel():
            yield name, result
    elif isinstance(result, Mapping):
        for key, term in result.items():
            nested = isinstance(term, Mapping)
            inner = {f"{key}/{one}": each for one, each in term.items()} if nested else term
            yield from terms_of(inner, str(key))
    elif isinstance(result, (tuple, list)):
        for place, term in enumerate(result):
            yield from terms_of(term, f"{name}[{place}]")


def value_of(term: Tensor) -> float:
    """The value of a term; of several values, as a loss without a reduction returns, their mean."""
    return term.item() if term.numel() == 1 else float(term.detach().double().mean())
