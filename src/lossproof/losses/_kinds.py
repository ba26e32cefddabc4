"""Sums over the similarities of each anchor with its own class, and with all other classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from lossproof.losses._embeddings import log_sum_exp
from lossproof.losses._labelled import Labelled, pairs
from lossproof.losses._others import Others, finite, many_pairs
from lossproof.speed.pairing import pairs as reduced_pairs

Tensor = torch.Tensor
Logits = Callable[[Tensor], Tensor]
"""From similarities to the logits that are summed."""


class OfKinds(NamedTuple):
    """Log-sum-exps over the samples of an anchor's class, and over those of other classes."""

    positives: Others
    negatives: Others


def sums_of_kinds(
    batch: Labelled, of_positives: Logits, of_negatives: Logits, epsilon: float | None = None
) -> OfKinds:
    """The sums over both kinds.

    Args:
        batch: embeddings of length 1.
        of_positives: from the similarities with the same class.
        of_negatives: from those with other classes.
        epsilon: leave out what is by so much less hard than the hardest of the other kind.
    """
    vectors = batch.vectors
    if many_pairs(vectors, vectors, across_ranks=False):
        return _in_blocks(batch, of_positives, of_negatives, epsilon)
    similarity = vectors @ vectors.T
    positive, negative = pairs(batch)
    if epsilon is not None:
        positive, negative = _mined(similarity.detach(), positive, negative, epsilon)
    return OfKinds(
        Others(*log_sum_exp(of_positives(similarity), positive)),
        Others(*log_sum_exp(of_negatives(similarity), negative)),
    )


def _mined(
    similarity: Tensor, positive: Tensor, negative: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The pairs that are about as hard as the hardest of the other kind, or harder."""
    if similarity.numel() == 0:
        return positive, negative
    farthest = torch.where(positive, similarity, torch.inf).amin(1, keepdim=True)
    nearest = torch.where(negative, similarity, -torch.inf).amax(1, keepdim=True)
    # By what is not kept, so that NaN is.
    return (
        positive & ~(similarity - epsilon >= nearest),
        negative & ~(similarity + epsilon <= farthest),
    )


def _in_blocks(
    batch: Labelled, of_positives: Logits, of_negatives: Logits, epsilon: float | None
) -> OfKinds:
    number = torch.arange(batch.labels.shape[0], device=batch.labels.device)
    rows = (batch.vectors, batch.labels, batch.counts, number)
    limits: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = ((), ())
    if epsilon is not None:
        held = (batch.vectors.detach(), *rows[1:])
        nearest = reduced_pairs(_of_negatives, "max")(held, fill=-torch.inf)
        farthest = reduced_pairs(_of_positives, "min")(held, fill=torch.inf)
        limits = ((nearest,), (farthest,))

    def positives(anchors: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
        similarity, kept = _compared(anchors, others, same=True)
        if epsilon is not None:
            limit = anchors[-1]
            kept = kept & ~(similarity - epsilon >= limit.unsqueeze(1))
        return of_positives(similarity).masked_fill(~kept, -torch.inf)

    def negatives(anchors: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
        similarity, kept = _compared(anchors, others, same=False)
        if epsilon is not None:
            limit = anchors[-1]
            kept = kept & ~(similarity + epsilon <= limit.unsqueeze(1))
        return of_negatives(similarity).masked_fill(~kept, -torch.inf)

    near = reduced_pairs(positives, "logsumexp")((*rows, *limits[0]), rows)
    far = reduced_pairs(negatives, "logsumexp")((*rows, *limits[1]), rows)
    return OfKinds(finite(near), finite(far))


def _of_positives(anchors: tuple[Tensor, ...], others: tuple[Tensor, ...], fill: float) -> Tensor:
    similarity, kept = _compared(anchors, others, same=True)
    return similarity.masked_fill(~kept, fill)


def _of_negatives(anchors: tuple[Tensor, ...], others: tuple[Tensor, ...], fill: float) -> Tensor:
    similarity, kept = _compared(anchors, others, same=False)
    return similarity.masked_fill(~kept, fill)


def _compared(
    anchors: tuple[Tensor, ...], others: tuple[Tensor, ...], *, same: bool
) -> tuple[Tensor, Tensor]:
    """The similarities of a block of pairs, and which are of the kind that is asked for."""
    vectors, labels, _, number, *_ = anchors
    other_vectors, other_labels, counts, other_number = others
    together = labels.unsqueeze(1) == other_labels
    kind = together & (number.unsqueeze(1) != other_number) if same else ~together
    return vectors @ other_vectors.T, kind & counts
