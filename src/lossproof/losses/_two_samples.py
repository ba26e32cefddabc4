"""Means over the pairs of two samples: within either, and between them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lossproof.losses._blocks import in_blocks
from lossproof.losses._distances import squared_distances
from lossproof.losses._median import median_of_distances
from lossproof.losses._pair_sums import Part, sum_over_pairs
from lossproof.write.arguments import choice

Tensor = torch.Tensor

ESTIMATORS = ("biased", "unbiased")


def mean_difference(
    of_pairs: Callable[[Tensor], Tensor], points: Tensor, count: int, estimator: str
) -> Tensor:
    """The mean within either sample, minus twice the mean between them.

    Args:
        of_pairs: from the squared distances of pairs of points to a number for each.
        points: the points of both samples, those of the first first.
        count: how many points the first sample has.
        estimator: whether the pairs of a point with itself count, ``"biased"``, or not.

    Raises:
        ValueError: without those pairs there are none.
    """
    choice("estimator", estimator, ESTIMATORS)
    sizes = (count, points.shape[0] - count)
    if 0 in sizes:
        return 0.0 * points.sum()
    own = 0 if estimator == "biased" else 1
    if min(sizes) <= own:
        raise ValueError(f"estimator='unbiased' needs two points of each, got {min(sizes)}")

    def formula(points: Tensor) -> Tensor:
        return _difference_of_means(of_pairs(squared_distances(points)), count, own)

    if not in_blocks(points.shape[0] ** 2, (points,)):
        return formula(points).to(points.dtype)
    return _difference_in_blocks(of_pairs, formula, points, count, own).to(points.dtype)


def _difference_of_means(values: Tensor, count: int, own: int) -> Tensor:
    """The same from the matrix of all pairs, in the widest precision."""
    sizes = (count, values.shape[0] - count)
    if own:
        values = values - values.diagonal().diag_embed()
    # Of samples that are alike the means are, too: what they differ by is less than the rounding of
    # a sum in float32.
    wide = None if values.device.type == "mps" else torch.float64
    first, second = values[:count], values[count:]
    within = first[:, :count].sum(dtype=wide) / (sizes[0] * (sizes[0] - own))
    within = within + second[:, count:].sum(dtype=wide) / (sizes[1] * (sizes[1] - own))
    return within - 2 * first[:, count:].mean(dtype=wide)


def _difference_in_blocks(
    of_pairs: Callable[[Tensor], Tensor],
    formula: Callable[[Tensor], Tensor],
    points: Tensor,
    count: int,
    own: int,
) -> Tensor:
    def with_slope(
        square: Tensor, rows: slice, columns: slice, sloped: bool
    ) -> tuple[Tensor, Tensor | None]:
        if not sloped:
            return of_pairs(square), None
        with torch.enable_grad():
            values = of_pairs(square.requires_grad_())
            (slope,) = torch.autograd.grad(values.sum(), square)
        return values.detach(), slope

    first, second = range(count), range(count, points.shape[0])
    ordered = [len(sample) * (len(sample) - own) for sample in (first, second)]
    parts = [
        Part(first, first, 1 / ordered[0]),
        Part(second, second, 1 / ordered[1]),
        Part(first, second, -2 / (len(first) * len(second))),
    ]
    total = sum_over_pairs(with_slope, formula, points, parts)
    if own:  # points with themselves, at distance 0
        itself = of_pairs(total.new_zeros(()))
        total = total - itself * sum(1 / (len(sample) - own) for sample in (first, second))
    return total


def median_of_pairs(points: Tensor) -> Tensor:
    """The median squared distance of different points, held constant; 1 where it is 0."""
    count = points.shape[0]
    if in_blocks(count * count, (points,)):
        median = median_of_distances(points)
    else:
        square = squared_distances(points.detach())
        itself = torch.eye(count, dtype=torch.bool, device=square.device)
        median = torch.where(itself, math.nan, square).flatten().nanmedian()
    return torch.where(median > 0, median, 1.0)
