"""Losses that measure how far predicted and true masks overlap."""

from __future__ import annotations

import torch

from lossproof.losses._confusion import ABSENT, AVERAGES, confusion, ratio, reduce_overlap
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import choice, flag, number
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("Sorensen-Dice", "F1", "soft dice", "V-Net"),
    peers={
        "kornia": "`smooth` is 0, absent classes are left out, `average` is our `classes`",
        "monai, smp, toolbelt": "`smooth` is 1e-5 or 0; NaN at ignored pixels reaches the loss",
        "smp, toolbelt": "over the batch; absent classes cost 0 and count in the mean",
        "optax, mmsegmentation": "`smooth` is 1",
    },
)
def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1.0,
    squared: bool = False,
    activation: str = "softmax",
    average: str = "sample",
    classes: str = "macro",
    absent: str = "count",
    include_background: bool = True,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Dice loss: 1 minus the overlap of predicted and true masks, relative to their mean size.

    .. math::
        v = 1 - \frac{2 \sum_i \min(p_i, t_i) + s}{\sum_i p_i + \sum_i t_i + s}
        = \frac{\sum_i |p_i - t_i|}{\sum_i p_i + \sum_i t_i + s}

    For hard targets :math:`\min(p, t) = p t`; for soft ones only the minimum is best at
    :math:`p = t`. With ``squared`` it is the loss of V-Net, :math:`\sum (p - t)^2 / (\sum p^2 +
    \sum t^2 + s)`. A small ``smooth`` :math:`s` leaves absent classes without a gradient.

    Args:
        input: logits :math:`(N, C, *)`, or probabilities with ``activation="none"``.
        target: labels :math:`(N, *)`, integers from 0 to C - 1; or a mask for each class
            :math:`(N, C, *)`, floating point from 0 to 1.
        smooth: :math:`s`, in pixels.
        squared: whether probabilities and targets are squared in the denominator.
        activation: what makes probabilities of ``input``: ``"softmax"`` over the classes,
            ``"sigmoid"`` of each, or ``"none"``.
        average: ``"sample"`` sums over the pixels of each sample, ``"batch"`` over those of all.
        classes: ``"macro"`` gives each class a value of its own, ``"micro"`` sums over the classes
            as well.
        absent: whether classes without a pixel ``"count"``, or not (``"skip"``).
        include_background: whether class 0 takes part.
        weight: of each class, :math:`(C)`, for ``"macro"``.
        ignore_index: the target of pixels that do not count; in masks, of pixels and classes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the values that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`; target: :math:`(N, *)` or :math:`(N, C, *)`.
        - Output: scalar; for ``"none"`` :math:`(N, C)`, without :math:`N` for ``average="batch"``,
          without :math:`C` for ``classes="micro"``.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, a number lies outside of its range,
            or an option is none of those above.

    Example:
        >>> import torch
        >>> from lossproof.losses import dice_loss
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> dice_loss(logits, labels)
        tensor(0.1312)
        >>> dice_loss(logits, labels, smooth=0.0, reduction="none")
        tensor([[0.2236, 0.1360]])

    Source:
        Milletari, Navab and Ahmadi (2016), V-Net: fully convolutional neural networks for
        volumetric medical image segmentation; for soft targets Wang et al. (2023), Dice semimetric
        losses.
    """
    number("smooth", smooth, minimum=0)
    flag("squared", squared)

    def of_counts(over: Tensor, under: Tensor, truth: Tensor) -> Tensor:
        return ratio(over + under, 2 * truth + over - under + smooth)

    def of_squares(difference: Tensor, mass: Tensor, _: Tensor) -> Tensor:
        return ratio(difference, mass + smooth)

    return reduce_overlap(
        of_squares if squared else of_counts,
        input,
        target,
        squared=squared,
        activation=activation,
        average=average,
        classes=classes,
        absent=absent,
        include_background=include_background,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


DiceLoss = as_module(dice_loss)


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("IoU", "intersection over union", "soft IoU", "Tanimoto"),
    peers={
        "smp, toolbelt": "over the batch, `smooth` is 0; an absent class counts with 0",
        "monai": "`DiceLoss(jaccard=True)`, with `smooth` 1e-5 on twice the sums",
    },
)
def jaccard_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1.0,
    squared: bool = False,
    activation: str = "softmax",
    average: str = "sample",
    classes: str = "macro",
    absent: str = "count",
    include_background: bool = True,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Jaccard loss: 1 minus the intersection over the union of predicted and true masks.

    .. math::
        v = 1 - \frac{\sum_i \min(p_i, t_i) + s}{\sum_i \max(p_i, t_i) + s}
        = \frac{\sum_i |p_i - t_i|}{\sum_i \max(p_i, t_i) + s}

    With ``squared`` it is the Tanimoto loss, where the minimum is :math:`p t` and the maximum
    :math:`p^2 + t^2 - p t`. Both are least at :math:`p = t`, also for soft targets.

    Args:
        input: logits :math:`(N, C, *)`, or probabilities with ``activation="none"``.
        target: labels :math:`(N, *)`, integers from 0 to C - 1; or a mask for each class
            :math:`(N, C, *)`, floating point from 0 to 1.
        smooth: :math:`s`, in pixels.
        squared: whether probabilities and targets are squared in the denominator.
        activation: what makes probabilities of ``input``: ``"softmax"`` over the classes,
            ``"sigmoid"`` of each, or ``"none"``.
        average: ``"sample"`` sums over the pixels of each sample, ``"batch"`` over those of all.
        classes: ``"macro"`` gives each class a value of its own, ``"micro"`` sums over the classes
            as well.
        absent: whether classes without a pixel ``"count"``, or not (``"skip"``).
        include_background: whether class 0 takes part.
        weight: of each class, :math:`(C)`, for ``"macro"``.
        ignore_index: the target of pixels that do not count; in masks, of pixels and classes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the values that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`; target: :math:`(N, *)` or :math:`(N, C, *)`.
        - Output: scalar; for ``"none"`` :math:`(N, C)`, without :math:`N` for ``average="batch"``,
          without :math:`C` for ``classes="micro"``.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, a number lies outside of its range,
            or an option is none of those above.

    Example:
        >>> import torch
        >>> from lossproof.losses import jaccard_loss
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> jaccard_loss(logits, labels)
        tensor(0.1875)

    Source:
        Rahman and Wang (2016), Optimizing intersection-over-union in deep neural networks for image
        segmentation; for soft targets Wang et al. (2023), Jaccard metric losses.
    """
    number("smooth", smooth, minimum=0)
    flag("squared", squared)

    def of_counts(over: Tensor, under: Tensor, truth: Tensor) -> Tensor:
        return ratio(over + under, truth + over + smooth)

    def of_squares(difference: Tensor, mass: Tensor, _: Tensor) -> Tensor:
        return ratio(difference, (mass + difference) / 2 + smooth)

    return reduce_overlap(
        of_squares if squared else of_counts,
        input,
        target,
        squared=squared,
        activation=activation,
        average=average,
        classes=classes,
        absent=absent,
        include_background=include_background,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


JaccardLoss = as_module(jaccard_loss)

WEIGHTINGS = ("square", "simple", "uniform")


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("GDL", "generalised Dice"),
    peers={
        "monai": "has `smooth` 1e-5 and gives absent classes the largest weight of the batch",
        "optax": "an absent class takes all the weight",
    },
)
def generalized_dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    class_weighting: str = "square",
    activation: str = "softmax",
    average: str = "sample",
    absent: str = "count",
    include_background: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Generalised Dice loss: one Dice for all classes, in which rare classes weigh more.

    .. math::
        v = \frac{\sum_c w_c \sum_i |p_{ci} - t_{ci}|}{\sum_c w_c \sum_i (p_{ci} + t_{ci})},
        \qquad w_c = \Big(\sum_i t_{ci}\Big)^{-2}

    The weight of an absent class would be infinite: it has that of the rarest present one.

    Args:
        input: logits :math:`(N, C, *)`, or probabilities with ``activation="none"``.
        target: labels :math:`(N, *)`, integers from 0 to C - 1; or a mask for each class
            :math:`(N, C, *)`, floating point from 0 to 1.
        class_weighting: ``"square"`` divides by the squared size of a class, ``"simple"`` by its
            size; ``"uniform"`` weighs all alike.
        activation: what makes probabilities of ``input``: ``"softmax"`` over the classes,
            ``"sigmoid"`` of each, or ``"none"``.
        average: ``"sample"`` sums over the pixels of each sample, ``"batch"`` over those of all.
        absent: whether classes without a pixel ``"count"`` or are left out (``"skip"``).
        include_background: whether class 0 takes part.
        ignore_index: the target of pixels that do not count; in masks, of pixels and classes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the number of samples
            in which anything counts.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`; target: :math:`(N, *)` or :math:`(N, C, *)`.
        - Output: scalar; for ``"none"`` :math:`(N)`, or a scalar for ``average="batch"``.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, a number lies outside of its range,
            or an option is none of those above.

    Example:
        >>> import torch
        >>> from lossproof.losses import generalized_dice_loss
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> generalized_dice_loss(logits, labels)
        tensor(0.1981)

    Source:
        Sudre et al. (2017), Generalised Dice overlap as a deep learning loss function for highly
        unbalanced segmentations.
    """
    choice("class_weighting", class_weighting, WEIGHTINGS)
    choice("average", average, AVERAGES)
    choice("absent", absent, ABSENT)
    sums, counts = confusion(
        input,
        target,
        activation=activation,
        include_background=include_background,
        ignore_index=ignore_index,
    )
    if average == "batch":
        sums, counts = tuple(part.sum(0) for part in sums), counts.any(0)
    over, under, truth = sums
    weight = _weight_by_size(truth, class_weighting, absent)
    difference = (weight * (over + under)).sum(-1)
    values = ratio(difference, (weight * (2 * truth + over - under)).sum(-1))
    return reduce(values, None, reduction, mask=counts.any(-1), normalizer=normalizer)


def _weight_by_size(truth: Tensor, class_weighting: str, absent: str) -> Tensor:
    """The weight of each class along the last axis; the largest is 1."""
    present = truth > 0
    rarest = torch.where(present, truth, float("inf")).amin(-1, keepdim=True)
    share = torch.where(present, rarest / torch.where(present, truth, 1.0), 1.0)
    weight: Tensor = share ** {"square": 2, "simple": 1, "uniform": 0}[class_weighting]
    return torch.where(present, weight, 0.0) if absent == "skip" else weight


GeneralizedDiceLoss = as_module(generalized_dice_loss)
