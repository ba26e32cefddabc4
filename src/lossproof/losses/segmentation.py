"""Losses of segmentation that are made of cross entropy: beside an overlap, of hard pixels."""

from __future__ import annotations

import torch

from lossproof.losses._confusion import class_weight
from lossproof.losses.catalogue import loss
from lossproof.losses.classification import cross_entropy_loss
from lossproof.losses.overlap import dice_loss
from lossproof.write.arguments import number, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=True,
    module="DiceCELoss",
    also=("Dice and cross entropy", "combo loss", "compound loss", "nnU-Net"),
    peers={
        "monai": "`smooth` is 1e-5; a weight is divided out of the cross entropy alone",
        "nnU-Net": 'Dice over the batch without the background: `average="batch", '
        "include_background=False`",
    },
)
def dice_ce_loss(
    input: Tensor,
    target: Tensor,
    *,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    smooth: float = 1.0,
    squared: bool = False,
    average: str = "sample",
    absent: str = "count",
    include_background: bool = True,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    r"""Dice loss plus cross entropy: overlap for the metric, cross entropy for a smooth gradient.

    .. math::
        L = \lambda_{\text{dice}} L_{\text{dice}} + \lambda_{\text{ce}} L_{\text{ce}}

    Both are means, :math:`L_{\text{dice}}` over samples and classes, :math:`L_{\text{ce}}` over
    pixels, so that there are no values of single items.

    Args:
        input: logits :math:`(N, C, *)`.
        target: labels :math:`(N, *)`, integers from 0 to C - 1; or a mask for each class
            :math:`(N, C, *)`, floating point from 0 to 1, in which nothing can be ignored.
        lambda_dice: the weight of the Dice loss, at least 0.
        lambda_ce: the weight of the cross entropy, at least 0.
        smooth: of the Dice loss, in pixels.
        squared: whether the Dice loss squares probabilities and targets in its denominator.
        average: whether the Dice loss sums over the pixels of each ``"sample"`` or of the
            ``"batch"``.
        absent: whether classes without a pixel ``"count"`` in the Dice loss or not (``"skip"``).
        include_background: whether class 0 takes part in the Dice loss.
        label_smoothing: of the cross entropy, from 0 to 1.
        weight: of each class, :math:`(C)`, in both means.
        ignore_index: the label of pixels that do not count.

    Shape:
        - Input: :math:`(N, C, *)`; target: :math:`(N, *)` or :math:`(N, C, *)`.
        - Output: scalar.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import dice_ce_loss
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> dice_ce_loss(logits, labels)
        tensor(0.3203)

    Source:
        Isensee et al. (2021), nnU-Net: a self-configuring method for deep learning-based biomedical
        image segmentation.
    """
    number("lambda_dice", lambda_dice, minimum=0)
    number("lambda_ce", lambda_ce, minimum=0)
    overlap = dice_loss(
        input,
        target,
        smooth=smooth,
        squared=squared,
        average=average,
        absent=absent,
        include_background=include_background,
        weight=weight,
        ignore_index=ignore_index,
    )
    entropy = cross_entropy_loss(
        input,
        target,
        label_smoothing=label_smoothing,
        weight=weight,
        ignore_index=ignore_index,
    )
    return lambda_dice * overlap + lambda_ce * entropy


DiceCELoss = as_module(dice_ce_loss, name="DiceCELoss")


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=True,
    module="TopKCrossEntropyLoss",
    also=("OHEM", "online hard example mining", "hard pixels", "bootstrapped"),
    peers={
        "nnU-Net": "`k` in per cent; ignored pixels are among those of which the share is taken",
        "mmsegmentation": "takes pixels below a probability, and a least number of them",
    },
)
def topk_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    k: float = 0.1,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Top-k cross entropy: that of the pixels with the largest loss, for rare and small objects.

    .. math::
        v_i = -w_{y_i} \log p_{i, y_i} \text{ for the } \lceil k n \rceil \text{ largest, else } 0

    :math:`n` pixels of the whole batch count. Where the last of the largest is as large as the
    next, both are taken.

    Args:
        input: logits, :math:`(C)` or :math:`(N, C, *)`.
        target: labels, :math:`()` or :math:`(N, *)`, integers from 0 to C - 1.
        k: the share of the pixels that is taken, above 0 and at most 1.
        weight: the weight :math:`w_c` of each class, :math:`(C)`.
        ignore_index: the label of pixels that do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the pixels that were taken, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(C)` or :math:`(N, C, *)`; target: :math:`()` or :math:`(N, *)`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import topk_cross_entropy_loss
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> topk_cross_entropy_loss(logits, torch.tensor([0, 1, 1]), k=0.5, reduction="none")
        tensor([0.0000, 0.3133, 1.3133])

    Source:
        Wu, Shen and van den Hengel (2016), Bridging category-level and instance-level semantic
        image segmentation; Shrivastava, Gupta and Girshick (2016), Training region-based object
        detectors with online hard example mining.
    """
    number("k", k, above=0, maximum=1)
    target = tensor("target", target, "integer").long()
    values = cross_entropy_loss(input, target, ignore_index=ignore_index, reduction="none")
    counts = target != ignore_index
    hardness = values
    if weight is not None:
        weight = class_weight(weight, input)[torch.where(counts, target, 0)]
        hardness = weight * values
    hard = counts & _among_largest(hardness.detach(), counts, k)
    return reduce(values, weight, reduction, mask=hard, normalizer=normalizer)


def _among_largest(values: Tensor, counts: Tensor, share: float) -> Tensor:
    """Which values are among the largest of those that count."""
    if values.numel() == 0:
        return counts
    ranked = torch.where(counts, values, -torch.inf).flatten().sort(descending=True).values
    # In whole numbers: in float32, 0.3 of 100 is more than 30.
    billionths = int(share * 10**9)
    taken = ((counts.sum() * billionths + 10**9 - 1) // 10**9).clamp(min=1)
    least = ranked.gather(0, (taken - 1).reshape(1)).reshape(())
    return ~(values < least)  # NaN is among the largest


TopKCrossEntropyLoss = as_module(topk_cross_entropy_loss, name="TopKCrossEntropyLoss")
