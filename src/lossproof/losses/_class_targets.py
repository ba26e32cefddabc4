"""Targets that are classes, by number or by probability, and the losses that take them.

What cross entropy, focal loss and their kin agree on, in one place: the shapes, ``ignore_index``,
class weights, label smoothing, and what a mean divides by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lossproof.losses._logits import (
    OfMargin,
    margin,
    margin_gradient,
    margins,
    one_hot,
)
from lossproof.write.arguments import (
    axes,
    class_indices,
    fits,
    integer,
    number,
    one_for_each_class,
    pair,
    same_device,
    tensor,
    within,
)
from lossproof.write.sweeping import Gradient, reduce_swept

Tensor = torch.Tensor
OfLabels = Callable[[Tensor, Tensor], Tensor]
r"""From logits (N, C, \*) and labels (N, \*) to values (N, \*)."""
OfClasses = Callable[[Tensor], Tensor]
r"""From logits (N, C, \*) to what each class would cost if it were the label, (N, C, \*)."""


def reduce_labels(
    of_labels: OfLabels,
    input: Tensor,
    target: Tensor,
    *,
    of_classes: OfClasses | None = None,
    gradient: Gradient | None = None,
    weight: Tensor | None = None,
    alpha: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""The loss of items of which each is of one class.

    Args:
        of_labels: the values of items with labels.
        input: logits, (C) or (N, C, \*).
        target: labels, () or (N, \*); probabilities in the shape of ``input`` where the loss is
            defined for them.
        of_classes: what each class would cost. The value of an item is its mean over the target's
            probabilities; without it the loss takes labels alone.
        gradient: the values of ``of_labels`` and their derivative in the logits, by formula.
        weight: the weight of each class, (C): a factor that a mean divides out.
        alpha: the same, but a mean does not divide it out.
        label_smoothing: the part of the target that is spread evenly over all classes.
        ignore_index: the label of items that do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        normalizer: what ``"mean"`` divides by instead.
    """
    number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    integer("ignore_index", ignore_index)
    input, target = _checked(input, target, ignore_index, of_classes is not None)
    single = input.ndim == 1
    if single:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    weight = _of_each_class("weight", weight, input)
    alpha = _of_each_class("alpha", alpha, input)
    factor = weight if alpha is None else alpha if weight is None else weight * alpha
    if normalizer is None:
        normalizer = _counted(input, target, weight, ignore_index)
    tensors: tuple[Tensor, ...] = (input, target)
    if of_classes is not None and (label_smoothing or target.is_floating_point()):
        values = _smoothed(of_classes, label_smoothing, ignore_index)
        if factor is not None:
            tensors += (factor.view(-1, *[1] * (input.ndim - 2)).expand_as(input),)
        item_factor = gradient = None
    else:
        values = _ignoring(of_labels, ignore_index)
        gradient = _gradient_ignoring(gradient, ignore_index)
        item_factor = None if factor is None else _of_labels(factor, target, ignore_index)
    found = reduce_swept(
        values,
        tensors,
        item_factor,
        reduction,
        normalizer=normalizer,
        gradient=gradient,
        class_axis=True,
    )
    return found.squeeze(0) if single and reduction == "none" else found


def reduce_margins(
    cost: Callable[[Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    *,
    gradient: OfMargin | None = None,
    **options: Any,
) -> Tensor:
    """The loss of items of one class each, by a formula in the margin of a class.

    Args:
        cost: from margins to what the class would cost.
        input: logits.
        target: labels or probabilities.
        gradient: from margins to the cost and its derivative, by formula.
        **options: those of :func:`reduce_labels`.
    """
    return reduce_labels(
        lambda logits, label: cost(margin(logits, label)),
        input,
        target,
        of_classes=lambda logits: cost(margins(logits)),
        gradient=None if gradient is None else margin_gradient(gradient),
        **options,
    )


def outcomes(
    input: Tensor, target: Tensor, mask: Tensor | None, label_smoothing: float = 0.0
) -> Tensor:
    """The target of a binary loss, 0, 1 or between, part of which may go evenly to both outcomes.

    Raises:
        TypeError: a tensor is of the wrong kind, or the smoothing is no number.
        ValueError: a shape does not fit, or a number is not within 0 and 1.
    """
    pair(input, target)
    number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    if mask is not None:
        fits("mask", mask, input, kind="bool")
    within("target", target, 0, 1, where=mask)
    if not label_smoothing:
        return target
    return target * (1 - label_smoothing) + label_smoothing / 2


def class_logits(input: Any) -> Tensor:
    """Logits of at least one class.

    Raises:
        TypeError: it is no floating-point tensor.
        ValueError: it has no classes.
    """
    logits = axes("input", tensor("input", input), -1, layout="(C) or (N, C, *)")
    if logits.shape[min(logits.ndim - 1, 1)] == 0:
        raise ValueError(f"`input` must have at least one class, got shape {list(logits.shape)}")
    return logits


def class_counts_of(value: Any, input: Tensor) -> Tensor:
    """How often each class occurs, (C), in the dtype of the logits.

    Raises:
        TypeError: it is no tensor of real numbers.
        ValueError: it has another shape, or a count is not positive.
    """
    classes = input.shape[min(input.ndim - 1, 1)]
    return one_for_each_class("class_counts", value, classes, input, kind="number", above=0)


def _checked(input: Any, target: Any, ignore_index: int, soft: bool) -> tuple[Tensor, Tensor]:
    input = class_logits(input)
    axis = min(input.ndim - 1, 1)
    classes = input.shape[axis]
    if soft and tensor("target", target, "number").is_floating_point():
        if target.shape != input.shape:
            raise ValueError(
                "`target` must hold integers for labels, or probabilities in the same shape as "
                f"`input`, {list(input.shape)}; got {target.dtype} of shape {list(target.shape)}"
            )
        same_device(input, target, ("input", "target"))
        within("target", target, 0, 1)
        return input, target
    target = tensor("target", target, "integer")
    wanted = input.shape[:axis] + input.shape[axis + 1 :]
    if target.shape != wanted:
        raise ValueError(
            f"`target` must have one label for each item of `input`, the shape {list(wanted)}, "
            f"got {list(target.shape)}"
        )
    same_device(input, target, ("input", "target"))
    return input, class_indices("target", target, classes, ignore_index=ignore_index)


def _of_each_class(name: str, value: Tensor | None, input: Tensor) -> Tensor | None:
    """A factor for each class, in the dtype of the logits."""
    if value is None:
        return None
    return one_for_each_class(name, value, input.shape[min(input.ndim - 1, 1)], input)


def _counted(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> float | Tensor:
    """What a mean divides by: the number of items that count, or the sum of their weights."""
    if not target.is_floating_point():
        if weight is None:
            return (target != ignore_index).sum()
        return _of_labels(weight, target, ignore_index).sum()
    if weight is None:
        return target.select(1, 0).numel()
    return target.movedim(1, -1).flatten(0, -2).sum(0) @ weight


def _of_labels(factor: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The factor of each item's class, and 0 where it does not count."""
    keep = target != ignore_index
    return torch.where(keep, factor[torch.where(keep, target, 0)], 0.0)


def _ignoring(of_labels: OfLabels, ignore_index: int) -> OfLabels:
    """The values, with 0 and no gradient for items that do not count, whatever they hold."""

    def values(input: Tensor, target: Tensor) -> Tensor:
        keep = target != ignore_index
        safe = torch.where(keep.unsqueeze(1), input, 0.0)
        return torch.where(keep, of_labels(safe, torch.where(keep, target, 0)), 0.0)

    return values


def _gradient_ignoring(gradient: Gradient | None, ignore_index: int) -> Gradient | None:
    """The same of a derivative by formula."""
    if gradient is None:
        return None

    def values_and_gradient(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        keep = target != ignore_index
        if keep.all():  # a sweep is never traced, and most blocks have nothing to ignore
            return gradient(input, target)
        counts = keep.unsqueeze(1)
        values, slope = gradient(torch.where(counts, input, 0.0), torch.where(keep, target, 0))
        return torch.where(keep, values, 0.0), torch.where(counts, slope, 0.0)

    return values_and_gradient


def _smoothed(
    of_classes: OfClasses, label_smoothing: float, ignore_index: int
) -> Callable[..., Tensor]:
    """The values for targets that are spread over several classes."""

    def values(input: Tensor, target: Tensor, *factor: Tensor) -> Tensor:
        keep = None
        if not target.is_floating_point():
            keep = target != ignore_index
            input = torch.where(keep.unsqueeze(1), input, 0.0)
            target = one_hot(target, input).to(input.dtype)
        target = target * (1 - label_smoothing) + label_smoothing / input.shape[1]
        for of_class in factor:
            target = target * of_class
        costs = (target * of_classes(input)).sum(1)
        return costs if keep is None else torch.where(keep, costs, 0.0)

    return values
