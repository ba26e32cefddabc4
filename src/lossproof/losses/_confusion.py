"""The soft confusion of a segmentation: what is predicted in excess, what is missed, what is there.

For the probability p of a class at a pixel and its target t,

    over = max(p - t, 0),  under = max(t - p, 0),

summed over pixels: the false positives, the false negatives, and with the sum of t the true
positives, t - under. A Dice, Jaccard or Tversky loss is a ratio of these, and written in them it is
exact near its minimum, where 1 minus a score is lost to rounding. For hard targets the sum of p t
is the same as that of min(p, t); for soft ones only the latter is best at p = t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from lossproof.losses._logits import class_numbers, one_hot
from lossproof.write.arguments import (
    axes,
    choice,
    class_indices,
    flag,
    integer,
    one_for_each_class,
    same_device,
    same_shape,
    tensor,
    visible,
    within,
)
from lossproof.write.reduction import reduce
from lossproof.write.sweeping import sum_swept

Tensor = torch.Tensor
Sums: TypeAlias = tuple[Tensor, ...]

ACTIVATIONS = ("softmax", "sigmoid", "none")
AVERAGES = ("sample", "batch")
CLASSES = ("macro", "micro")
ABSENT = ("count", "skip")


def reduce_overlap(
    value: Callable[[Tensor, Tensor, Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    *,
    squared: bool = False,
    activation: str,
    average: str,
    classes: str,
    absent: str,
    include_background: bool,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    normalizer: float | Tensor | None,
) -> Tensor:
    r"""The loss of masks that overlap.

    Args:
        value: from ``over``, ``under`` and ``truth`` to the value; where ``squared``, from the sums
            of (p - t)^2, of p^2 + t^2 and of t.
        input: (N, C, \\*).
        target: labels (N, \\*) or masks (N, C, \\*).
        squared: which sums ``value`` takes.
        activation: what makes probabilities of ``input``.
        average: whether the sums run over each sample or over the batch.
        classes: whether each class has a value, or all have one together.
        absent: whether a class without a pixel counts.
        include_background: whether class 0 takes part.
        weight: of each class, (C).
        ignore_index: the target where nothing counts.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        normalizer: what ``"mean"`` divides by instead.
    """
    choice("average", average, AVERAGES)
    choice("classes", classes, CLASSES)
    choice("absent", absent, ABSENT)
    sums, counts = confusion(
        input,
        target,
        squared=squared,
        activation=activation,
        include_background=include_background,
        ignore_index=ignore_index,
    )
    if weight is not None:
        if classes == "micro":
            raise ValueError('`weight` is of each class: it needs classes="macro", got "micro"')
        weight = class_weight(weight, input)
        weight = weight if include_background else weight[1:]
    if average == "batch":
        sums, counts = tuple(part.sum(0) for part in sums), counts.any(0)
    elif weight is not None:
        weight = weight.unsqueeze(0)
    if classes == "micro":
        sums, counts = tuple(part.sum(-1) for part in sums), counts.any(-1)
    if absent == "skip":
        counts = counts & (sums[2] > 0)
    return reduce(value(*sums), weight, reduction, mask=counts, normalizer=normalizer)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient of two sums, and 0 where there is nothing to sum."""
    nothing = denominator == 0
    return torch.where(nothing, 0.0, numerator) / torch.where(nothing, 1.0, denominator)


def confusion(
    input: Tensor,
    target: Tensor,
    *,
    squared: bool = False,
    activation: str,
    include_background: bool,
    ignore_index: int,
) -> tuple[Sums, Tensor]:
    """The sums over the pixels of each sample and class, (N, C), and where any pixel counts."""
    input, target = checked(input, target, activation, ignore_index)
    flag("include_background", include_background)
    input = input.flatten(2) if input.ndim > 2 else input.unsqueeze(2)
    pixels = (*target.shape[: 2 if target.is_floating_point() else 1], input.shape[2])
    target = target.reshape(pixels)
    labels = not target.is_floating_point()
    if labels and input.shape[1] == 1:
        raise ValueError(
            "`target` must be a mask in the shape of `input`, as floating-point numbers, where "
            f"`input` has one class, which every label would be; got {target.dtype}"
        )
    formula = _Confusion(activation, ignore_index)
    if squared:
        sums = sum_swept(formula.squares, (input, target))
    elif labels and activation == "softmax":
        sums = sum_swept(formula.of_labels, (input, target), gradient=formula.of_labels_gradient)
    else:
        sums = sum_swept(formula.sums, (input, target))
    counts = (target != ignore_index).any(-1)
    counts = (counts.unsqueeze(1) if labels else counts).expand_as(sums[0])
    if include_background:
        return sums, counts
    if input.shape[1] < 2:
        raise ValueError(
            "`include_background=False` leaves no class: "
            f"`input` has {input.shape[1]}, shape {list(input.shape)}"
        )
    return tuple(part[:, 1:] for part in sums), counts[:, 1:]


def checked(input: Any, target: Any, activation: str, ignore_index: int) -> tuple[Tensor, Tensor]:
    r"""Logits or probabilities (N, C, \\*), and labels (N, \\*) or masks (N, C, \\*)."""
    choice("activation", activation, ACTIVATIONS)
    integer("ignore_index", ignore_index)
    input = axes("input", tensor("input", input), -1, layout="(C) or (N, C, *)")
    target = tensor("target", target, "number")
    masks = target.is_floating_point()
    if masks:
        same_shape(input, target)
    if input.ndim == 1:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    classes = input.shape[1]
    if classes < (2 if activation == "softmax" else 1):
        wanted = "at least 2 classes" if activation == "softmax" else "at least one class"
        raise ValueError(
            f"`input` must have {wanted} with activation={activation!r}, "
            f"got shape {list(input.shape)}"
        )
    if masks:
        keep = target != ignore_index
        within("target", target, 0, 1, where=keep)
    else:
        same_device(input, target, ("input", "target"))
        wanted_shape = input.shape[:1] + input.shape[2:]
        if target.shape != wanted_shape:
            raise ValueError(
                "`target` must hold a label for each pixel, the shape "
                f"{list(wanted_shape)}, or masks in the shape of `input`, {list(input.shape)}, "
                f"as floating-point numbers; got {target.dtype} of shape {list(target.shape)}"
            )
        target = class_indices("target", target, classes, ignore_index=ignore_index)
        keep = (target != ignore_index).unsqueeze(1)
    if activation == "none":
        within("input", input, 0, 1, where=keep)
    return input, target


def class_weight(weight: Any, input: Tensor) -> Tensor:
    """A weight for each class, (C), in the dtype of ``input``."""
    classes = input.shape[min(input.ndim - 1, 1)]
    return one_for_each_class("weight", weight, classes, input, kind="number")


class _Confusion:
    """Sums over pixels: tensors (N, C, S) and (N, S) or (N, C, S) to (N, C)."""

    def __init__(self, activation: str, ignore_index: int) -> None:
        self.activation = activation
        self.ignore_index = ignore_index

    def sums(self, input: Tensor, target: Tensor) -> Sums:
        """Over, under and truth."""
        over, under, truth = self._pixels(input, target)
        return over.sum(2), under.sum(2), truth.sum(2)

    def squares(self, input: Tensor, target: Tensor) -> Sums:
        """The sums of (p - t)^2, of p^2 + t^2 and of t."""
        over, under, truth = self._pixels(input, target)
        p = truth + over - under
        difference = (over + under).square().sum(2)
        return difference, (p.square() + truth.square()).sum(2), truth.sum(2)

    def _pixels(self, input: Tensor, target: Tensor) -> Sums:
        """Over, under and the target of each class at each pixel."""
        keep = target != self.ignore_index
        if target.is_floating_point():
            truth = torch.where(keep, target, 0.0).to(input.dtype)
        else:
            keep = keep.unsqueeze(1)
            truth = (keep & one_hot(target, input)).to(input.dtype)
        # A pixel where any class counts takes part in the softmax.
        given = keep.any(1, keepdim=True) if self.activation == "softmax" else keep
        p, q = probabilities(torch.where(given, input, 0.0), self.activation)
        # Of p - t and (1 - t) - (1 - p) the one that is exact where p is near t.
        excess = torch.where(truth > 0.5, (1 - truth) - q, p - truth)
        excess = torch.where(keep, excess, 0.0)
        return torch.relu(excess), torch.relu(-excess), truth

    def of_labels(self, input: Tensor, target: Tensor) -> Sums:
        """Over, under and truth for labels and a softmax, where 1 - p is what the others have."""
        if torch.compiler.is_compiling():
            return self._of_labels_fused(input, target)
        keep = target != self.ignore_index
        label, every = target, _certainly_all(keep)
        if not every:
            input = torch.where(keep.unsqueeze(1), input, 0.0)
            label = torch.where(keep, target, 0)
        others = torch.softmax(input, 1).scatter(1, label.unsqueeze(1), 0.0)
        if not every:
            others = torch.where(keep.unsqueeze(1), others, 0.0)
        nothing = others.new_zeros(others.shape[:2])
        under = nothing.scatter_add(1, label, others.sum(1))
        return others.sum(2), under, nothing.scatter_add(1, label, keep.to(others.dtype))

    def _of_labels_fused(self, input: Tensor, target: Tensor) -> Sums:
        """The same by comparisons, which a compiler fuses with their neighbours."""
        keep = (target != self.ignore_index).unsqueeze(1)
        is_label = one_hot(target, input)
        safe = torch.where(keep, input, 0.0)
        share = torch.exp(safe - safe.detach().amax(1, keepdim=True))
        scale = keep.to(input.dtype) / share.sum(1, keepdim=True)
        others = torch.where(is_label, 0.0, share)
        # Both sums over the classes in one loop, before they are scaled.
        missing = torch.where(is_label, others.sum(1, keepdim=True) * scale, 0.0)
        return (others * scale).sum(2), missing.sum(2), (is_label & keep).to(input.dtype).sum(2)

    def of_labels_gradient(
        self, input: Tensor, target: Tensor, over: Tensor, under: Tensor, _: Tensor
    ) -> Tensor:
        """The derivative in the logits, from those in the sums.

        What the classes beside the label have counts in ``over`` of their own, and in ``under`` of
        the label's.
        """
        keep = target != self.ignore_index
        every = _certainly_all(keep)
        label = target if every else torch.where(keep, target, 0)
        p = torch.softmax(input, 1)
        slope = over.unsqueeze(2) + under.gather(1, label).unsqueeze(1)
        slope.scatter_(1, label.unsqueeze(1), 0.0)
        gradient: Tensor = torch._softmax_backward_data(slope, p, 1, p.dtype)
        return gradient if every else torch.where(keep.unsqueeze(1), gradient, 0.0)


def _certainly_all(keep: Tensor) -> bool:
    """Whether every pixel counts, where that can be told without waiting for a device."""
    return visible(keep) and bool(keep.all())


def probabilities(input: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    r"""The probability of each class (N, C, \\*), and that of all else, each to full precision."""
    if activation == "none":
        return input, 1 - input
    if activation == "sigmoid":
        return torch.sigmoid(input), torch.sigmoid(-input)
    p = torch.softmax(input, 1)
    is_top = p.argmax(1, keepdim=True) == class_numbers(p)
    rest = torch.where(is_top, 0.0, p).sum(1, keepdim=True)
    return p, torch.where(is_top, rest, 1 - p)  # no other class has more than half
