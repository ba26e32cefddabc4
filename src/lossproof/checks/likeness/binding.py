"""Which argument of a loss can be which input of a known one, told by shape and type.

Each function here yields bindings, likeliest first; what a loss does decides between them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

import torch

from lossproof.checks.likeness.known import Binding, Roles, Slot
from lossproof.checks.roles import role_by_name

Slots = tuple[Slot, ...]


def _floating(slot: Slot) -> bool:
    return slot.value.is_floating_point()


def _whole(slot: Slot) -> bool:
    return slot.value.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def _ranked(slots: Iterable[Slot]) -> list[Slot]:
    """What is predicted first, what is a target last; else in the order of the call."""

    def rank(slot: Slot) -> int:
        named = role_by_name(slot.name)
        if slot.differentiable and named != "target":
            return 0
        return 2 if named == "target" else 1

    return sorted(slots, key=rank)


def _alike(slots: Slots) -> bool:
    return len({tuple(slot.value.shape) for slot in slots}) == 1


def pair(slots: Slots) -> Iterator[Binding]:
    """``input`` and ``target`` of one shape."""
    if len(slots) == 2 and _alike(slots) and any(map(_floating, slots)):
        for one, other in itertools.permutations(_ranked(slots)):
            if _floating(one):
                yield {"input": one, "target": other}


def told_pair(slots: Slots) -> Iterator[Binding]:
    """``input`` and ``target`` in one way alone where gradients tell them apart."""
    found = list(pair(slots))
    told = len({slot.differentiable for slot in slots}) == 2
    yield from found[:1] if told else found


def pair_or_columns(slots: Slots) -> Iterator[Binding]:
    """``input`` and ``target`` of one shape, or one target for several columns of the input."""
    yield from pair(slots)
    if len(slots) != 2 or not all(map(_floating, slots)):
        return
    for one, other in itertools.permutations(slots):
        rows, shape = tuple(one.value.shape), tuple(other.value.shape)
        if len(rows) >= 2 and rows != shape and shape in (rows[:-1], (*rows[:-1], 1)):
            yield {"input": one, "target": other}


def single(slots: Slots) -> Iterator[Binding]:
    """One ``input``."""
    if len(slots) == 1 and _floating(slots[0]):
        yield {"input": slots[0]}


def labelled(slots: Slots) -> Iterator[Binding]:
    """Scores ``input`` with the classes along an axis, and the ``target`` indices."""
    if len(slots) != 2:
        return
    for one, other in itertools.permutations(slots):
        if not (_floating(one) and _whole(other)):
            continue
        shape, labels = tuple(one.value.shape), tuple(other.value.shape)
        classes = len(shape) >= 2 and labels in (
            (shape[0], *shape[2:]),
            shape[:-1],
            (shape[0], 1, *shape[2:]),
        )
        if classes and int(other.value.max()) < max(shape[1], shape[-1]):
            yield {"input": one, "target": other}


def grouped(slots: Slots) -> Iterator[Binding]:
    """Rows ``input`` [N, D] and one label for each, ``target`` [N]."""
    if len(slots) != 2:
        return
    for one, other in itertools.permutations(slots):
        rows = one.value.dim() == 2 and other.value.numel() == len(one.value)
        if rows and _floating(one) and _whole(other):
            yield {"input": one, "target": other}


def named_pair(first: str, second: str) -> Roles:
    """Two inputs of one shape, in the order of the call and in the other order."""

    def roles(slots: Slots) -> Iterator[Binding]:
        if len(slots) == 2 and _alike(slots) and all(map(_floating, slots)):
            yield {first: slots[0], second: slots[1]}
            yield {first: slots[1], second: slots[0]}

    return roles


def scores_of_two(slots: Slots) -> Iterator[Binding]:
    """A critic's scores ``real`` and ``fake``, told by their names, else by their order."""
    if len(slots) == 2 and all(map(_floating, slots)):
        one, other = slots
        if re.search(r"fake|gen|false", one.name, re.I):
            one, other = other, one
        yield {"real": one, "fake": other}


def scores_and_relevance(slots: Slots) -> Iterator[Binding]:
    """``input`` and ``target`` of one shape, of which the scores are differentiable."""
    if len(slots) == 2 and _alike(slots):
        for one, other in itertools.permutations(slots):
            if one.differentiable and _floating(one):
                yield {"input": one, "target": other}


def triplet(slots: Slots) -> Iterator[Binding]:
    """``anchor``, ``positive`` and ``negative``, as called unless the names say otherwise."""
    if len(slots) != 3 or not _alike(slots) or not all(map(_floating, slots)):
        return
    anchor, positive, negative = slots
    if re.search(r"neg", positive.name, re.I) or re.search(r"pos", negative.name, re.I):
        positive, negative = negative, positive
    yield {"anchor": anchor, "positive": positive, "negative": negative}


def better_and_worse(slots: Slots) -> Iterator[Binding]:
    """Scores ``positive`` and ``negative``, in the order of the call unless named otherwise."""
    if len(slots) == 2 and _alike(slots) and all(map(_floating, slots)):
        one, other = slots
        if re.search(r"neg|reject|worse|los", one.name, re.I):
            one, other = other, one
        yield {"positive": one, "negative": other}


def named_triple(first: str, second: str, third: str, *, fixed: bool = False) -> Roles:
    """Three inputs of one shape; in the order of the call first, and in every other order."""

    def roles(slots: Slots) -> Iterator[Binding]:
        if len(slots) != 3 or not _alike(slots) or not all(map(_floating, slots)):
            return
        for order in itertools.permutations(slots):
            yield dict(zip((first, second, third), order, strict=True))
            if fixed:
                return

    return roles


def vectors_and_label(slots: Slots) -> Iterator[Binding]:
    """Two batches of vectors ``one`` and ``other`` [N, D] and a label ``target`` for each pair."""
    if len(slots) != 3:
        return
    floating = [s for s in slots if _floating(s) and s.value.dim() == 2 and s.value.shape[1] > 1]
    rest = [s for s in slots if s not in floating]
    if len(floating) == 2 and _alike(tuple(floating)) and len(rest) == 1:
        if rest[0].value.numel() == len(floating[0].value):
            yield {"one": floating[0], "other": floating[1], "target": rest[0]}


def compared_scores(slots: Slots) -> Iterator[Binding]:
    """Two batches of scores and a label for each pair, all of one shape."""
    if len(slots) == 3 and _alike(slots) and all(map(_floating, slots[:2])):
        yield {"one": slots[0], "other": slots[1], "target": slots[2]}


def survival(slots: Slots) -> Iterator[Binding]:
    """``risk``, ``time`` and ``event``, one number for each subject."""
    if len(slots) != 3 or len({slot.value.numel() for slot in slots}) != 1:
        return
    risks = [s for s in slots if s.differentiable and _floating(s)]
    if len(risks) != 1 or risks[0].value.numel() < 2:
        return
    times = [s for s in slots if s is not risks[0]]
    for time, event in itertools.permutations(times):
        values = event.value.double()
        if bool(((values == 0) | (values == 1)).all()):
            yield {"risk": risks[0], "time": time, "event": event}


def preferences(slots: Slots) -> Iterator[Binding]:
    """Log-probabilities of the chosen and the rejected answer, of the policy and the reference."""
    if len(slots) != 4 or not _alike(slots) or not all(map(_floating, slots)):
        return
    roles = ("chosen", "rejected", "reference_chosen", "reference_rejected")
    by_name: dict[str, Slot] = {}
    for slot in slots:
        reference = "reference_" if re.search(r"ref", slot.name, re.I) else ""
        which = "rejected" if re.search(r"rej|los|neg|worse|_l", slot.name, re.I) else "chosen"
        by_name[reference + which] = slot
    if set(by_name) == set(roles):
        yield by_name


def rows_of_two(slots: Slots) -> Iterator[Binding]:
    """Two sets ``one`` and ``other`` of vectors, of any sizes."""
    if len(slots) == 2 and all(_floating(s) and s.value.dim() == 2 for s in slots):
        if slots[0].value.shape[1] == slots[1].value.shape[1]:
            yield {"one": slots[0], "other": slots[1]}


def boxes(slots: Slots) -> Iterator[Binding]:
    """``input`` and ``target`` boxes [N, 4]."""
    for binding in pair(slots):
        shape = binding["input"].value.shape
        if len(shape) == 2 and shape[1] == 4:
            yield binding


def gaussian_parameters(slots: Slots) -> Iterator[Binding]:
    """``mean`` and ``spread`` of one shape."""
    yield from named_pair("mean", "spread")(slots)


def autoencoder(slots: Slots) -> Iterator[Binding]:
    """``recon`` and ``data`` of one shape, ``mean`` and ``spread`` of one shape."""
    if len(slots) != 4:
        return
    for a, b, c, d in itertools.permutations(slots):
        if a.position > b.position and _floating(b) and b.differentiable == a.differentiable:
            continue
        matched = a.value.shape == b.value.shape and c.value.shape == d.value.shape
        if matched and all(map(_floating, (a, c, d))) and a.differentiable:
            if not (b.differentiable or (c.position > d.position)):
                yield {"recon": a, "data": b, "mean": c, "spread": d}


def distilled(slots: Slots) -> Iterator[Binding]:
    """Two batches of logits, ``student`` and ``teacher``, and the labels ``target``."""
    labels = [s for s in slots if _whole(s)]
    scores = tuple(s for s in slots if _floating(s))
    if len(labels) == 1 and len(scores) == 2 and _alike(scores) and len(slots) == 3:
        if labels[0].value.numel() == len(scores[0].value):
            for one, other in itertools.permutations(_ranked(scores)):
                yield {"student": one, "teacher": other, "target": labels[0]}


def predicted_spread(slots: Slots) -> Iterator[Binding]:
    """``input``, ``target`` and ``spread`` of one shape, in every order that names allow."""
    if len(slots) != 3 or not _alike(slots) or not any(map(_floating, slots)):
        return
    for one, two, three in itertools.permutations(slots):
        if one.differentiable and _floating(three):
            yield {"input": one, "target": two, "spread": three}
