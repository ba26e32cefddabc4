"""Contrasts of a query and its positive with negatives of their own, such as a memory queue."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.known import (
    Binding,
    Definition,
    KnownLoss,
    Reading,
    Slot,
    Term,
    Terms,
    Usual,
)

Tensor = torch.Tensor


def _queried(slots: tuple[Slot, ...]) -> Iterator[Binding]:
    """Rows ``query`` and ``positive`` of one shape, and ``negatives`` that all of them share."""
    if len(slots) != 3 or any(slot.value.dim() != 2 for slot in slots):
        return
    for query, positive, negatives in itertools.permutations(slots):
        if query.value.shape != positive.value.shape or not query.value.is_floating_point():
            continue
        if negatives.value.shape[1] != query.value.shape[1]:
            continue
        if "neg" in query.name.lower() or "neg" in positive.name.lower():
            continue
        yield {"query": query, "positive": positive, "negatives": negatives}


def _contrast(normalised: bool, how: str) -> Definition:
    def terms(
        query: Tensor,
        positive: Tensor,
        negatives: Tensor,
        *,
        temperature: Usual = (0.07, 0.1, 0.2, 0.5, 1.0),
    ) -> Terms:
        t = float(temperature)
        if t <= 0 or (how and t == 1):
            return {}
        if normalised:
            query, positive, negatives = (
                F.normalize(rows, dim=1) for rows in (query, positive, negatives)
            )
        own = (query * positive).sum(1, keepdim=True) / (1 if how == "own" else t)
        others = query @ negatives.t() / (1 if how == "others" else t)
        scores = others if how == "left out" else torch.cat([own, others], 1)
        return {"-log p": Term(scores.logsumexp(1) - own.squeeze(1))}

    return terms


MEND = "logits = torch.cat([positive, negative], 1) / temperature"

LOSSES = (
    KnownLoss(
        "queue-info-nce", "the InfoNCE loss", "van den Oord et al., 2018; He et al., MoCo, 2020",
        r"info nce|infonce|\bnce\b|contrast|moco", _queried,
        (
            *(Reading(_contrast(n, "")) for n in (True, False)),
            *(Reading(_contrast(n, "others"), "divides the positives by the temperature, and not "
                      "the negatives", MEND) for n in (True, False)),
            *(Reading(_contrast(n, "own"), "divides the negatives by the temperature, and not the "
                      "positives", MEND) for n in (True, False)),
            *(Reading(_contrast(n, "left out"), "leaves the positive out of the denominator: it "
                      "has no lower bound", "torch.cat([positive, negative], 1).logsumexp(1)",
                      r"^(?!.*nce)|decoupl|dcl") for n in (True, False)),
        ),
        unlike=r"triplet|margin|sup|noise",
    ),
)  # fmt: skip
