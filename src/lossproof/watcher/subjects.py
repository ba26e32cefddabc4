"""The terms of a step, each with the call that returned it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.trace import tensors_in
from lossproof.watcher.record import Call, StepRecord

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Subject:
    """A term, and where in the result of its call it stands."""

    name: str
    call: Call
    place: int
    """Its number among the tensors of the result."""
    recorded: Tensor


def subjects(record: StepRecord, term: str | None = None) -> list[Subject]:
    """The terms that calls of this step returned, in order; those of one name alone if it is given.

    With several micro-batches in a step there are several of one name.
    """
    noted = {id(tensor): name for name, tensor in record.terms.items()}
    found: list[Subject] = []
    for call in record.calls:
        for place, (key, tensor) in enumerate(_named(call.result, call.name)):
            name = noted.get(id(tensor), key)
            is_term = call.role == "terms" and tensor.is_floating_point() and tensor.numel()
            if (is_term or id(tensor) in noted) and term in (None, name):
                found.append(Subject(name, call, place, tensor))
    return found


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a result in the order of ``tensors_in``, with the names of their terms."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _named(item, str(key))
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _named(item, f"{name}[{place}]")
    else:
        yield from ((name, tensor) for tensor in tensors_in(value))


def micro_batch(record: StepRecord, call: Call) -> tuple[int, int]:
    """Which of how many calls of the same function this is, from 1."""
    same = [one for one in record.calls if one.role == call.role and one.name == call.name]
    return same.index(call) + 1, len(same)
