"""Losses that measure how far two boxes are from being one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from lossproof.losses._confusion import ratio
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import fits, pair, within
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input boxes[8,4]; target boxes[8,4]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="IoULoss",
    also=("Jaccard", "bounding box", "detection"),
    peers={"mmdetection": "`-log IoU` by default, and clamped by eps"},
)
def iou_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""IoU loss: 1 minus the intersection over the union of two boxes.

    .. math::
        v = 1 - \frac{I}{U}

    Boxes that do not overlap cost 1 and have no gradient, which is what GIoU mends. Two empty boxes
    cost 0 where they coincide, else 1.

    Args:
        input: predicted boxes :math:`(*, 4)`, the corners :math:`x_1, y_1, x_2, y_2` with
            :math:`x_1 \le x_2, y_1 \le y_2`. What is inside out has no size.
        target: true boxes, the shape of ``input``.
        weight: how much each box counts, :math:`(*)` or 1 where it is the same for all.
        mask: which boxes count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of boxes that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, 4)`; target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or a true box is inside out.

    Example:
        >>> import torch
        >>> from lossproof.losses import iou_loss
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [5.0, 0.0, 6.0, 1.0]])
        >>> truth = torch.tensor([[1.0, 0.0, 4.0, 3.0], [2.0, 0.0, 4.0, 3.0]])
        >>> iou_loss(boxes, truth, reduction="none")
        tensor([0.4545, 1.0000])

    Source:
        Yu et al. (2016), UnitBox: an advanced object detection network, whose loss is minus the
        logarithm of the IoU; in this form Rezatofighi et al. (2019).
    """
    both = _Pair.of(input, target, mask)
    return reduce(_iou_loss(both), weight, reduction, mask=mask, normalizer=normalizer)


IoULoss = as_module(iou_loss, name="IoULoss")


@loss(
    inputs="input boxes[8,4]; target boxes[8,4]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="GIoULoss",
    also=("generalized IoU", "bounding box", "detection"),
    peers={"torchvision, monai": "eps in the denominators; torchvision returns `none` by default"},
)
def giou_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""GIoU loss: the IoU loss, with a gradient for boxes that do not overlap.

    .. math::
        v = 1 - \frac{I}{U} + \frac{C - U}{C}

    :math:`C` is the area of the smallest box that encloses both.

    Args:
        input: predicted boxes :math:`(*, 4)`, the corners :math:`x_1, y_1, x_2, y_2` with
            :math:`x_1 \le x_2, y_1 \le y_2`. What is inside out has no size.
        target: true boxes, the shape of ``input``.
        weight: how much each box counts, :math:`(*)` or 1 where it is the same for all.
        mask: which boxes count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of boxes that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, 4)`; target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or a true box is inside out.

    Example:
        >>> import torch
        >>> from lossproof.losses import giou_loss
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [5.0, 0.0, 6.0, 1.0]])
        >>> truth = torch.tensor([[1.0, 0.0, 4.0, 3.0], [2.0, 0.0, 4.0, 3.0]])
        >>> giou_loss(boxes, truth, reduction="none")
        tensor([0.5379, 1.4167])

    Source:
        Rezatofighi et al. (2019), Generalized intersection over union.
    """
    both = _Pair.of(input, target, mask)
    return reduce(_iou_loss(both) + _gap(both), weight, reduction, mask=mask, normalizer=normalizer)


GIoULoss = as_module(giou_loss, name="GIoULoss")


@loss(
    inputs="input boxes[8,4]; target boxes[8,4]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="DIoULoss",
    also=("distance IoU", "bounding box", "detection"),
    peers={"torchvision": "eps in the denominators; returns `none` by default"},
)
def diou_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""DIoU loss: the IoU loss, and the distance of the centres.

    .. math::
        v = 1 - \frac{I}{U} + \frac{\rho^2}{c^2}

    :math:`\rho` is the distance of the centres, :math:`c` the diagonal of the smallest box that
    encloses both.

    Args:
        input: predicted boxes :math:`(*, 4)`, the corners :math:`x_1, y_1, x_2, y_2` with
            :math:`x_1 \le x_2, y_1 \le y_2`. What is inside out has no size.
        target: true boxes, the shape of ``input``.
        weight: how much each box counts, :math:`(*)` or 1 where it is the same for all.
        mask: which boxes count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of boxes that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, 4)`; target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or a true box is inside out.

    Example:
        >>> import torch
        >>> from lossproof.losses import diou_loss
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [5.0, 0.0, 6.0, 1.0]])
        >>> truth = torch.tensor([[1.0, 0.0, 4.0, 3.0], [2.0, 0.0, 4.0, 3.0]])
        >>> diou_loss(boxes, truth, reduction="none")
        tensor([0.4745, 1.2900])

    Source:
        Zheng et al. (2020), Distance-IoU loss.
    """
    both = _Pair.of(input, target, mask)
    return reduce(
        _iou_loss(both) + _distance(both), weight, reduction, mask=mask, normalizer=normalizer
    )


DIoULoss = as_module(diou_loss, name="DIoULoss")


@loss(
    inputs="input boxes[8,4]; target boxes[8,4]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    module="CIoULoss",
    also=("complete IoU", "bounding box", "detection", "YOLO"),
    stops_gradient="the weight alpha of the aspect ratio",
    peers={
        "torchvision": "NaN for boxes without a size; returns `none` by default",
        "ultralytics": "has eps in the aspect ratio",
    },
)
def ciou_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""CIoU loss: the IoU loss, the distance of the centres, and the aspect ratio.

    .. math::
        v = 1 - \frac{I}{U} + \frac{\rho^2}{c^2} + \alpha s, \qquad
        s = \frac{4}{\pi^2} \Big(\arctan\frac{w_t}{h_t} - \arctan\frac{w}{h}\Big)^2, \quad
        \alpha = \frac{s}{1 - \mathrm{IoU} + s}

    :math:`\rho` is the distance of the centres, :math:`c` the diagonal of the smallest box that
    encloses both. As in the paper :math:`\alpha` is held constant in the gradient.

    Args:
        input: predicted boxes :math:`(*, 4)`, the corners :math:`x_1, y_1, x_2, y_2` with
            :math:`x_1 \le x_2, y_1 \le y_2`. What is inside out has no size.
        target: true boxes, the shape of ``input``.
        weight: how much each box counts, :math:`(*)` or 1 where it is the same for all.
        mask: which boxes count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of boxes that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, 4)`; target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or a true box is inside out.

    Example:
        >>> import torch
        >>> from lossproof.losses import ciou_loss
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [5.0, 0.0, 6.0, 1.0]])
        >>> truth = torch.tensor([[1.0, 0.0, 4.0, 3.0], [2.0, 0.0, 4.0, 3.0]])
        >>> ciou_loss(boxes, truth, reduction="none")
        tensor([0.4781, 1.2902])

    Source:
        Zheng et al. (2020), Distance-IoU loss.
    """
    both = _Pair.of(input, target, mask)
    return reduce(_complete(both), weight, reduction, mask=mask, normalizer=normalizer)


CIoULoss = as_module(ciou_loss, name="CIoULoss")


class _Pair(NamedTuple):
    """Two boxes, by corners and sizes; along the last axis x and y."""

    low: Tensor
    high: Tensor
    size: Tensor
    true_low: Tensor
    true_high: Tensor
    true_size: Tensor

    @classmethod
    def of(cls, input: Any, target: Any, mask: Any) -> _Pair:
        input, target = pair(input, target)
        if input.ndim == 0 or input.shape[-1] != 4:
            raise ValueError(
                f"`input` must hold boxes x1, y1, x2, y2, the shape (*, 4), got {list(input.shape)}"
            )
        if mask is not None:
            counts = fits("mask", mask, input[..., 0], kind="bool").unsqueeze(-1)
            input, target = torch.where(counts, input, 0.0), torch.where(counts, target, 0.0)
        (low, high), (true_low, true_high) = input.split(2, -1), target.split(2, -1)
        true_size = true_high - true_low
        within("target[..., 2:] - target[..., :2]", true_size, 0)
        return cls(low, high, torch.relu(high - low), true_low, true_high, true_size)


def _area(size: Tensor) -> Tensor:
    return size[..., 0] * size[..., 1]


def _overlap(both: _Pair) -> Tensor:
    """The sizes of the intersection."""
    return torch.relu(
        torch.minimum(both.high, both.true_high) - torch.maximum(both.low, both.true_low)
    )


def _enclosing(both: _Pair) -> Tensor:
    """The sizes of the smallest box around both."""
    return torch.maximum(both.high, both.true_high) - torch.minimum(both.low, both.true_low)


def _union(both: _Pair) -> Tensor:
    return _area(both.size) + _area(both.true_size) - _area(_overlap(both))


def _iou_loss(both: _Pair) -> Tensor:
    """What only one of the boxes covers, relative to the union; exact for boxes that nearly agree.

    Along each axis a box juts out of the other by so much, at most by its whole size.
    """
    under, over = both.true_low - both.low, both.high - both.true_high
    juts = torch.minimum(both.size, torch.relu(under) + torch.relu(over))
    true_juts = torch.minimum(both.true_size, torch.relu(-under) + torch.relu(-over))
    overlap = _overlap(both)
    alone = [
        size[..., 0] * jut[..., 1] + overlap[..., 1] * jut[..., 0]
        for size, jut in ((both.size, juts), (both.true_size, true_juts))
    ]
    union = _union(both)
    apart = ((both.low != both.true_low) | (both.high != both.true_high)).any(-1)
    return torch.where(union == 0, apart.to(union.dtype), ratio(alone[0] + alone[1], union))


def _gap(both: _Pair) -> Tensor:
    """The part of the enclosing box that neither covers.

    Of boxes that overlap these are rectangles at the corners, where one juts out along x and the
    other along y.
    """
    low, high = both.low - both.true_low, both.true_high - both.high
    corners = sum(
        torch.relu(-x * y) for x in (low[..., 0], high[..., 0]) for y in (low[..., 1], high[..., 1])
    )
    enclosing = _area(_enclosing(both))
    touching = (_overlap(both) > 0).all(-1)
    return ratio(torch.where(touching, corners, enclosing - _union(both)), enclosing)


def _distance(both: _Pair) -> Tensor:
    """The squared distance of the centres, relative to the diagonal around both."""
    between = ((both.low - both.true_low) + (both.high - both.true_high)) / 2
    return ratio(between.square().sum(-1), _enclosing(both).square().sum(-1))


def _complete(both: _Pair) -> Tensor:
    overlap_loss = _iou_loss(both)
    difference = _angle(both.true_size) - _angle(both.size)
    aspect = (2 / math.pi * difference).square()
    alpha = ratio(aspect, overlap_loss + aspect).detach()
    return overlap_loss + _distance(both) + alpha * aspect


def _angle(size: Tensor) -> Tensor:
    """The angle of the diagonal; that of a point is 0, without a gradient."""
    width, height = size.unbind(-1)
    point = width.square() + height.square() < torch.finfo(size.dtype).tiny
    return torch.atan2(torch.where(point, 0.0, width), torch.where(point, 1.0, height))
