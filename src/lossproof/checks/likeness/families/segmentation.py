"""Overlaps of masks: Dice, Jaccard, Tversky and generalised Dice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import labelled, pair
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
SMOOTH: Usual = (0.0, 1.0, 1e-5, 1e-6)


# ---------------------------------------------------------------------------- masks
def _activated(input: Tensor, kind: str) -> Tensor | None:
    inside = bool((input >= 0).all()) and bool((input <= 1).all())
    if kind == "given":
        return input if inside else None
    if inside:
        return None
    if kind == "sigmoid":
        return torch.sigmoid(input)
    return torch.softmax(input, 1) if input.dim() >= 2 and input.shape[1] > 1 else None


def _one_hot(target: Tensor, input: Tensor) -> Tensor | None:
    if target.shape == input.shape:
        return target.double()
    if target.is_floating_point() or input.dim() < 2:
        return None
    labels = target.squeeze(1) if target.dim() == input.dim() else target
    if labels.shape != (input.shape[0], *input.shape[2:]):
        return None
    if int(labels.min()) < 0 or int(labels.max()) >= input.shape[1]:
        return None
    return F.one_hot(labels.long(), input.shape[1]).movedim(-1, 1).double()


def _axes(dim: int, over: str) -> tuple[int, ...] | None:
    if over == "all":
        return tuple(range(dim))
    if over == "sample":
        return tuple(range(1, dim)) if dim > 1 else None
    if over == "sample and class":
        return tuple(range(2, dim)) if dim > 2 else None
    if over == "class":
        return (0, *range(2, dim)) if dim > 1 else None
    return (dim - 1,) if dim > 1 else None


Counts = tuple[Tensor, Tensor, Tensor]


@lru_cache(maxsize=256)  # tensors are told apart by identity; each draw's is one object
def _counts(input: Tensor, target: Tensor, kind: str, over: str, squared: bool) -> Counts | None:
    """The intersection and the two sizes, one of each for every mask."""
    p, y = _activated(input, kind), _one_hot(target, input)
    axes = _axes(input.dim(), over)
    if p is None or y is None or axes is None:
        return None
    sizes = (p**2, y**2) if squared else (p, y)
    return (p * y).sum(axes), sizes[0].sum(axes), sizes[1].sum(axes)


def _ratio(formula: str, counts: Counts, s: float) -> Tensor:
    both, one, other = counts
    if formula == "dice":
        return (2 * both + s) / (one + other + s)
    if formula == "dice, smooth below":
        return 2 * both / (one + other + s)
    if formula == "dice, smooth above twice":
        return (2 * both + 2 * s) / (one + other + 2 * s)
    if formula == "dice, smooth within":
        return 2 * (both + s) / (one + other + s)
    if formula == "iou":
        return (both + s) / (one + other - both + s)
    if formula == "iou, smooth below":
        return both / (one + other - both + s)
    if formula == "half dice":
        return (both + s) / (one + other + s)
    if formula == "dice over the union":
        return (2 * both + s) / (one + other - both + s)
    raise ValueError(formula)


KINDS = ("given", "sigmoid", "softmax")
OVERS = ("all", "sample and class", "sample", "class", "row")
WAYS = tuple(itertools.product(KINDS, OVERS))


def _overlap(
    formula: str, kind: str, over: str, squared: bool = False, how: str = ""
) -> Definition:
    def terms(input: Tensor, target: Tensor, *, smooth: Usual = SMOOTH) -> Terms:
        counts = _counts(input, target, kind, over, squared)
        if counts is None:
            return {}
        ratio = _ratio(formula, counts, float(smooth))
        if how == "log":
            return {"log overlap": Term(torch.log(ratio), -1.0)}
        return {"overlap": Term(ratio, -1.0)}

    return terms


def _with_cross_entropy(formula: str, kind: str, over: str) -> Definition:
    def terms(input: Tensor, target: Tensor, *, smooth: Usual = SMOOTH) -> Terms:
        counts = _counts(input, target, kind, over, False)
        p, y = _activated(input, kind), _one_hot(target, input)
        if counts is None or p is None or y is None:
            return {}
        entropy = -y * p.clamp_min(1e-300).log()
        if kind != "softmax":
            entropy = entropy - (1 - y) * (1 - p).clamp_min(1e-300).log()
        return {
            "overlap": Term(_ratio(formula, counts, float(smooth)), -1.0, "overlap"),
            "cross entropy": Term(entropy, 1.0, "cross entropy"),
        }

    return terms


def _tversky(kind: str, over: str, focal: str = "") -> Definition:
    def terms(
        input: Tensor, target: Tensor, *, alpha: Usual = (0.3, 0.7, 0.5),
        beta: Usual = (0.7, 0.3, 0.5), smooth: Usual = SMOOTH, gamma: Usual = (1.0,),
    ) -> Terms:  # fmt: skip
        counts = _counts(input, target, kind, over, False)
        if counts is None:
            return {}
        both, one, other = counts
        a, b, s = float(alpha), float(beta), float(smooth)
        ratio = (both + s) / (both + a * (one - both) + b * (other - both) + s)
        if focal:
            power = float(gamma) if focal == "power" else 1 / float(gamma)
            return {"(1 - Tversky)^gamma": Term((1 - ratio).clamp_min(0) ** power)}
        return {"Tversky": Term(ratio, -1.0)}

    return terms


def _f_score(kind: str, over: str) -> Definition:
    def terms(
        input: Tensor, target: Tensor, *, beta: Usual = (1.0, 2.0), smooth: Usual = SMOOTH
    ) -> Terms:
        counts = _counts(input, target, kind, over, False)
        if counts is None:
            return {}
        both, one, other = counts
        b, s = float(beta) ** 2, float(smooth)
        return {"F": Term(((1 + b) * both + s) / (b * other + one + s), -1.0)}

    return terms


def _generalised(kind: str, over: str, power: int, dot: bool = False) -> Definition:
    def terms(input: Tensor, target: Tensor, *, smooth: Usual = SMOOTH) -> Terms:
        counts = _counts(input, target, kind, over, False)
        if counts is None or input.dim() < 2:
            return {}
        both, one, other = counts
        if bool((other <= 0).any()):
            return {}
        weight, s = 1 / other**power, float(smooth)
        axis = 1 if over == "sample and class" else 0
        above, below = (weight * both).sum(axis), (weight * (one + other)).sum(axis)
        return {"generalised Dice": Term((2 * above + s) / (below + s), -1.0)}

    return terms


def _as_pair(slots: tuple[Slot, ...]) -> Iterator[Binding]:
    found = list(pair(slots))
    if len(found) == 2 and not found[1]["input"].differentiable:
        found = found[:1]  # an overlap is symmetric
    yield from found
    yield from labelled(slots)


DICE = "1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)"
IOU = "1 - (intersection + smooth) / (p.sum() + y.sum() - intersection + smooth)"
NO_DICE = (
    r"general|jaccard|\biou\b|tversky|cl dice|cldice|focal|wasserstein|hausdorff|boundary|"
    r"multi scale|deep|unified|adaptive|log cosh"
)

LOSSES = (
    KnownLoss(
        "dice", "the Dice loss", "Milletari et al., V-Net, 2016", r"dice|f 1 loss|soft f 1",
        _as_pair,
        (
            *(Reading(_overlap(formula, kind, over, squared))
              for formula in ("dice", "dice, smooth below", "dice, smooth above twice",
                              "dice, smooth within")
              for squared in (False, True) for kind, over in WAYS),
            *(Reading(_f_score(kind, over)) for kind, over in WAYS),
            *(Reading(_overlap("dice", kind, over, how="log")) for kind, over in WAYS),
            *(Reading(_with_cross_entropy("dice", kind, over)) for kind, over in WAYS),
            *(Reading(_overlap("half dice", kind, over), "has no factor 2 at the intersection, so "
                      "that a perfect prediction gives 1/2", DICE) for kind, over in WAYS),
            *(Reading(_overlap("dice over the union", kind, over), "divides 2 |A and B| by the "
                      "union instead of by |A| + |B|", DICE) for kind, over in WAYS),
        ),
        unlike=NO_DICE, constant="overlap", mend=DICE,
    ),
    KnownLoss(
        "generalised-dice", "the generalised Dice loss", "Sudre et al., 2017",
        r"general\w* (soft )?dice|\bgdl\b|generali[sz]eddice|\bgdice", _as_pair,
        (
            *(Reading(_generalised(kind, over, power))
              for kind in KINDS for over in ("sample and class", "class") for power in (2, 1)),
            *(Reading(_overlap(formula, kind, over), "divides for every class by itself, where the "
                      "class weights cancel: this is the plain Dice loss",
                      "1 - 2 * (w * intersection).sum(1) / (w * (p_sum + y_sum)).sum(1)")
              for formula in ("dice", "dice, smooth below") for kind in KINDS
              for over in ("sample and class", "class")),
        ),
        unlike=r"wasserstein|focal", constant="overlap",
    ),
    KnownLoss(
        "jaccard", "the Jaccard loss", "Rahman and Wang, 2016", r"jaccard|\biou\b|iou loss|iouloss",
        _as_pair,
        (
            *(Reading(_overlap(formula, kind, over))
              for formula in ("iou", "iou, smooth below") for kind, over in WAYS),
            *(Reading(_overlap("iou", kind, over, squared=True)) for kind, over in WAYS),
            *(Reading(_overlap("iou", kind, over, how="log")) for kind, over in WAYS),
            *(Reading(_with_cross_entropy("iou", kind, over)) for kind, over in WAYS),
            *(Reading(_overlap("half dice", kind, over), "does not take the intersection out of "
                      "the union, where it is counted twice", IOU) for kind, over in WAYS),
            *(Reading(_overlap("dice", kind, over), "is the Dice loss, not the Jaccard loss", IOU,
                      r"dice|f 1") for kind, over in WAYS),
        ),
        unlike=r"giou|diou|ciou|general|lovasz|power|focal|box|bbox", constant="overlap", mend=IOU,
    ),
    KnownLoss(
        "tversky", "the Tversky loss", "Salehi et al., 2017; Abraham and Khan, 2019",
        r"tversky", _as_pair,
        (
            *(Reading(_tversky(kind, over)) for kind, over in WAYS[:12]),
            *(Reading(_tversky(kind, over, "power")) for kind, over in WAYS[:12]),
            *(Reading(_tversky(kind, over, "root")) for kind, over in WAYS[:12]),
        ),
    ),
)  # fmt: skip
