"""The terms of a step, each with the call that returned it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lossproof.checks.trace import tensors_in
from lossproof.watcher.record import Call, StepRecord
from lossproof.watcher.terms import terms_of

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
        places = {id(tensor): place for place, tensor in enumerate(tensors_in(call.result))}
        for key, tensor in terms_of(call.result, call.name):
            name = noted.get(id(tensor), key)
            is_term = call.role == "terms" or id(tensor) in noted
            if is_term and term in (None, name) and id(tensor) in places:
                found.append(Subject(name, call, places[id(tensor)], tensor))
    return found


def micro_batch(record: StepRecord, call: Call) -> tuple[int, int]:
    """Which of how many calls of the same function this is, from 1."""
    same = [one for one in record.calls if one.role == call.role and one.name == call.name]
    return same.index(call) + 1, len(same)
