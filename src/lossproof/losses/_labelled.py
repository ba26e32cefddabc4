"""Embeddings with a label each, and which of them belong together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from lossproof.losses._embeddings import embeddings, kept_rows, not_diagonal
from lossproof.write.arguments import axes, integer, same_device, tensor

Tensor = torch.Tensor


class Labelled(NamedTuple):
    """A batch of embeddings."""

    vectors: Tensor
    """(N, D); those that do not count are 0."""
    labels: Tensor
    """(N,)."""
    counts: Tensor
    """Which count, (N,)."""


def labelled(input: Any, target: Any, ignore_index: int) -> Labelled:
    """Embeddings (N, D) and a label for each, checked.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` or ``ignore_index`` not integer.
        ValueError: the shapes do not fit.
    """
    embeddings("input", input)
    axes("target", tensor("target", target, "integer"), 1, layout="(N)")
    same_device(input, target, ("input", "target"))
    if input.shape[0] != target.shape[0]:
        raise ValueError(
            f"`target` must hold one label for each row of `input`, "
            f"got {list(target.shape)} for {list(input.shape)}"
        )
    labels = target.long()  # beside uint8, an `ignore_index` of -100 would be 156
    counts = labels != integer("ignore_index", ignore_index)
    return Labelled(kept_rows(input, counts), labels, counts)


def pairs(batch: Labelled) -> tuple[Tensor, Tensor]:
    """Which others have the label of each row, and which have another, both (N, N)."""
    same = batch.labels.unsqueeze(1) == batch.labels
    return same & not_diagonal(same) & batch.counts, ~same & batch.counts
