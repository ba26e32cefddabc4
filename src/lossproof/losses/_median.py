"""The median distance of the points of a batch, without the distances of all.

The bits of a floating-point number that is not negative, read as an integer, are in the order of
the numbers. So the median is found sixteen bits at a time: the distances are gone through, those
that begin like the median are counted by the bits that follow, and the counts tell these bits of
the median. It is exact, however the distances are distributed.
"""

from __future__ import annotations

import torch

from lossproof.losses._blocks import tiles
from lossproof.losses._distances import Centred

Tensor = torch.Tensor

BITS = 16
"""How many bits are found in one sweep over all pairs."""
NONE = -1
"""Instead of the bits of what does not count; they would be those of a negative number."""
_INTEGER = {torch.float64: torch.int64, torch.float32: torch.int32}


def median_of_distances(points: Tensor) -> Tensor:
    """The lower median of the squared distances of all pairs of different rows of (N, D).

    NaN does not count. Where there is no number at all, it is NaN.
    """
    batch = Centred.of(points.detach())
    integer = _INTEGER[points.dtype]
    width = torch.finfo(points.dtype).bits
    found, before = 0, 0  # the leading bits of the median, and how many numbers are smaller
    wanted = None
    for shift in range(width - BITS, -1, -BITS):
        counts = _counts(batch, integer, found, shift)
        if wanted is None:
            wanted = (int(counts.sum()) - 1) // 2
            if wanted < 0:
                return points.new_full((), torch.nan)
        upto = before + counts.cumsum(0)
        bits = int((upto <= wanted).sum())
        before = int(upto[bits] - counts[bits])
        found = found << BITS | bits
    return torch.tensor(found, dtype=integer, device=points.device).view(points.dtype)


def _counts(batch: Centred, integer: torch.dtype, found: int, shift: int) -> Tensor:
    """How many distances that begin with the bits found go on with each of the next bits."""
    device, every = batch.vectors.device, range(batch.vectors.shape[0])
    counts = torch.zeros(2 + (1 << BITS), dtype=torch.int64, device=device)
    for rows, columns in tiles(every, every, device, once=True):
        square = batch.squared_distances(rows, columns)
        bits = square.view(integer).masked_fill(square.isnan(), NONE)
        if rows == columns:  # each pair once, and no point with itself
            place = torch.arange(bits.shape[0], device=device)
            bits = bits.masked_fill(place.unsqueeze(1) <= place, NONE)
        # Those that begin in another way are counted before the first and after the last.
        next_bits = (bits >> shift).sub_(found << BITS).clamp_(-1, 1 << BITS).add_(1)
        counts += next_bits.flatten().bincount(minlength=len(counts))
    return counts[1:-1]
