"""Each embedding among those of all other samples: where contrastive losses have their memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from lossproof.losses._blocks import in_blocks
from lossproof.losses._embeddings import log_sum_exp
from lossproof.speed.pairing import pairs
from lossproof.speed.ranks import share_of_rank, usable_ranks
from lossproof.write.arguments import visible

Tensor = torch.Tensor

MANY = 1 << 22
"""Pairs from which on blocks are as fast on a CPU: of 2,048 rows."""


class Side(NamedTuple):
    """Embeddings of some samples."""

    vectors: Tensor
    """(N, D)."""
    sample: Tensor
    """Of which sample each is, (N,)."""
    counts: Tensor | None
    """Which count, (N,); without it all."""

    def given(self) -> tuple[Tensor, ...]:
        """As rows for a function of pairs."""
        if self.counts is None:
            return self.vectors, self.sample
        return self.vectors, self.sample, self.counts


class Others(NamedTuple):
    """What each embedding is compared with."""

    log_sum_exp: Tensor
    """Over its products with those of other samples, (N,); 0 where there are none."""
    some: Tensor
    """Whether there are any."""


def samples_of_rank(rows: Tensor, across_ranks: Any) -> Tensor:
    """The numbers of the samples, one for each row, among those of all ranks where these count."""
    if usable_ranks(across_ranks) is False:
        return torch.arange(rows.shape[0], device=rows.device)
    share = share_of_rank(rows.shape[0], across_ranks, device=rows.device)
    return share.numbers(rows.device)


def among_others(first: Side, second: Side, *, across_ranks: Any = False) -> Others:
    """Each of the first among the second of other samples; with those of other ranks, if so."""
    if not many_pairs(first.vectors, second.vectors, across_ranks=across_ranks):
        return Others(*log_sum_exp(products(first.given(), second.given())))
    rows = pairs(products, "logsumexp", across_ranks=across_ranks)
    return finite(rows(first.given(), second.given()))


def among_others_both_ways(
    first: Side, second: Side, *, across_ranks: Any = False
) -> tuple[Others, Others]:
    """Each of the first among the second of other samples, and each of the second."""
    if not many_pairs(first.vectors, second.vectors, across_ranks=across_ranks):
        logits = products(first.given(), second.given())
        return Others(*log_sum_exp(logits)), Others(*log_sum_exp(logits.T))
    both_ways = pairs(products, "logsumexp", dim=(1, 0), across_ranks=across_ranks)
    rows, columns = both_ways(first.given(), second.given())
    return finite(rows), finite(columns)


def many_pairs(first: Tensor, second: Tensor, *, across_ranks: Any) -> bool:
    """Whether their pairs are gone through by ``pairs``, which also looks after other ranks."""
    if across_ranks is not False:
        return True
    return in_blocks(first.shape[0] * second.shape[0], (first, second), MANY)


def products(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    """The products of all pairs; minus infinity for the same sample, and for what counts not."""
    vectors, sample, *counts = first
    other_vectors, other_sample, *other_counts = second
    logits = vectors @ other_vectors.T
    if not apart(sample, other_sample):
        logits = logits.masked_fill(sample.unsqueeze(1) == other_sample, -torch.inf)
    for of_rows, of_columns in zip(counts, other_counts, strict=True):
        logits = logits.masked_fill(~(of_rows.unsqueeze(1) & of_columns), -torch.inf)
    return logits


def apart(sample: Tensor, other: Tensor) -> bool:
    """Whether it is seen at once that no sample is in both, as beside the diagonal of a batch."""
    if not (visible(sample) and sample.numel() and other.numel()):
        return False
    (least, most), (other_least, other_most) = (map(int, s.aminmax()) for s in (sample, other))
    return most < other_least or other_most < least


def finite(logs: Tensor) -> Others:
    """Log-sum-exps that are minus infinity where there are no others."""
    some = logs != -torch.inf
    return Others(torch.where(some, logs, 0.0), some)
