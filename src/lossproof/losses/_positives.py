"""Each embedding and those of its own label among all, for supervised contrastive losses."""

from __future__ import annotations

from typing import Any

import torch

from lossproof.losses._embeddings import log_sum_exp
from lossproof.losses._others import Side, finite, many_pairs, products, samples_of_rank
from lossproof.speed.pairing import pairs
from lossproof.speed.ranks import gathered, group_of

Tensor = torch.Tensor


def among_labelled(
    anchors: Tensor, views: Tensor, label: Tensor, counts: Tensor, across_ranks: Any
) -> tuple[Tensor, Tensor]:
    """The mean cross entropy of the others of its label for each anchor, and how many these are."""
    number = samples_of_rank(views, across_ranks)
    rows, columns = Side(anchors, number, counts), Side(views, number, counts)
    if not many_pairs(anchors, views, across_ranks=across_ranks):
        logits = products(rows.given(), columns.given())
        positive = (label.unsqueeze(1) == label) & (logits != -torch.inf)
        positives = positive.sum(-1)
        mean = torch.where(positive, logits, 0.0).sum(-1) / positives.clamp(min=1)
        # The mean of the positives goes first: the values are then as exact as they are small.
        values, _ = log_sum_exp(logits - mean.unsqueeze(-1))
        return values, positives
    group = group_of(across_ranks)
    if group is not None:
        (views, number, counts, all_labels), _ = gathered(
            "input", [views, number, counts, label], group
        )
        columns = Side(views, number, counts)
    else:
        all_labels = label
    mean, positives = _mean_of_positives(rows, label, columns, all_labels)
    above = pairs(_above, "logsumexp")((mean, *rows.given()), columns.given())
    return finite(above).log_sum_exp, positives


def _above(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    """The products of all pairs, less a number of each of the first."""
    mean, *rows = first
    return products(tuple(rows), second) - mean.unsqueeze(1)


def _mean_of_positives(
    anchors: Side, label: Tensor, views: Side, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean product of each anchor with the others of its label, and how many these are.

    The products are those with the sum over the label, less the anchor's own view.
    """
    assert views.counts is not None and anchors.counts is not None
    kinds, kind = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    wide = views.vectors if views.vectors.device.type == "mps" else views.vectors.double()
    sums = wide.new_zeros(len(kinds), wide.shape[1]).index_add(0, kind, wide)
    sizes = torch.zeros_like(kinds).index_add(0, kind, views.counts.long())
    own_kind = torch.searchsorted(kinds, label)
    place = torch.searchsorted(views.sample, anchors.sample)
    others = sums.index_select(0, own_kind) - wide.index_select(0, place)
    positives = torch.where(anchors.counts, sizes[own_kind] - 1, 0)
    total = (anchors.vectors.to(wide.dtype) * others).sum(-1)
    return (total / positives.clamp(min=1)).to(anchors.vectors.dtype), positives
