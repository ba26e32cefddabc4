"""Overlap losses: a perfect overlap costs nothing.

Dice, IoU, Tversky and F-measure are 1 for a perfect prediction, whatever the mask, so that `1 - x`,
`-log(x)` and their powers are 0 there, and `-x` is -1. A forgotten factor 2, or a union that counts
the overlap twice, leaves another number: 0.5 for every mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from lossproof.checks.conventions import Fault
from lossproof.checks.direction import Comparison
from lossproof.checks.direction.labels import is_scored, other_labels, right_entries
from lossproof.checks.domain import Kind

Tensor = torch.Tensor

_OVERLAP = re.compile(r"dice|(^|_|[a-z])iou|jaccard|tversky|f1|f_?score|f_?beta|f_?measure", re.I)
SURE = 40.0
"""A logit of which sigmoid and softmax are 0 and 1 to rounding."""
SLACK = 0.02
"""Smoothing terms leave a little."""


def perfect_overlap_costs(comparison: Comparison) -> Iterator[Fault]:
    """Losses that are named after an overlap, at the prediction that is the mask."""
    if not _OVERLAP.search(comparison.case.subject.name) or not is_scored(comparison):
        return
    costs = []
    for target in (comparison.target, other_labels(comparison)):
        right = right_entries(comparison, target)
        if right is None or _has_an_empty_mask(right):
            return
        perfect = comparison.value(_sure(comparison, right), target)
        wrong = comparison.value(_sure(comparison, 1 - right), target)
        if perfect is None or wrong is None or perfect > wrong - SLACK:
            return
        costs.append(perfect)
    lowest, highest = min(costs), max(costs)
    if lowest < 2 * SLACK or highest - lowest > SLACK or not comparison.starts:
        return
    if any(point.value < highest for point in comparison.starts):
        return  # the mask is not what the prediction is read as
    yield Fault(
        f"a perfect overlap costs {lowest:.4g}, whatever the mask",
        comparison.case.subject.location,
        "perfect-overlap-costs",
        "dice = 2 * overlap / (sum of both); iou = overlap / (sum of both - overlap)",
        {"perfect_overlap": lowest, "for_other_mask": highest},
        ("the coefficient of a prediction that equals its mask is 1, and `1 - 1` is 0",),
    )


def _has_an_empty_mask(right: Tensor) -> bool:
    """Whether a class or a sample has no entry at all: what that costs is for each loss to say."""
    if right.dim() < 2:
        return not bool((right > 0).any())
    if right.dim() > 2:
        return bool((right.flatten(2).sum(-1) == 0).any())
    return any(bool((right.sum(axis) == 0).any()) for axis in (0, 1))


def _sure(comparison: Comparison, entries: Tensor) -> Tensor:
    """A prediction that is sure of these entries, as logits or as probabilities."""
    return SURE * (2 * entries - 1) if comparison.domain.kind is Kind.REAL else entries
