"""The hardest positive and the hardest negative of each row of a batch."""

from __future__ import annotations

import torch

from lossproof.losses._blocks import in_blocks, strips
from lossproof.losses._distances import Centred
from lossproof.losses._labelled import Labelled

Tensor = torch.Tensor


def hardest(batch: Labelled, mining: str) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor the row of its positive and of its negative, and whether it has both."""
    vectors, labels, counts = batch
    count = labels.shape[0]
    if count == 0:
        return labels, labels, counts
    centred = Centred.of(vectors)
    if not in_blocks(count * count, (vectors, labels)):
        return _of_rows(slice(None), centred, batch, mining)
    found = [_of_rows(rows, centred, batch, mining) for rows in strips(count, count, labels.device)]
    positive, negative, both = map(torch.cat, zip(*found, strict=True))
    return positive, negative, both


def _of_rows(
    rows: slice, centred: Centred, batch: Labelled, mining: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for some anchors."""
    _, labels, counts = batch
    square = centred.squared_distances(rows, slice(None))
    same = labels[rows].unsqueeze(1) == labels
    place = torch.arange(labels.shape[0], device=labels.device)
    others = same & (place[rows].unsqueeze(1) != place)
    positive = torch.where(others, square, -1.0).max(1)
    barred = same | ~counts
    if mining == "semihard":
        barred = barred | (square <= positive.values.unsqueeze(1))
    negative = torch.where(barred, torch.inf, square).min(1)
    # Compared with what stands for "none", for NaN is to be seen and not left out.
    found = (positive.values != -1) & (negative.values != torch.inf)
    return positive.indices, negative.indices, counts[rows] & found
