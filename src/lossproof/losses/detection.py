"""Losses of how sure an object detector is, of a box and of its coordinates."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from lossproof.losses._logits import binary, margins, power
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import fits, number, pair, same_device, tensor, within
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,5]; target unit[8,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("QFL", "generalized focal loss", "GFL", "detection"),
    peers={"toolbelt": "the same"},
)
def quality_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 2.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Quality focal loss: a focal loss whose target is the quality of the detected box.

    .. math::
        v = -|q - p|^\beta \big(q \log p + (1 - q) \log(1 - p)\big), \qquad p = \sigma(x)

    It is 0 where the probability is the quality. For targets of 0 and 1 it is the focal loss with
    :math:`\gamma = \beta`.

    Args:
        input: logits, any shape, floating point.
        target: qualities :math:`q` from 0 to 1 (the IoU of the predicted box, 0 for what is no
            object), the shape of ``input``, floating point.
        beta: how strongly values near their target lose weight, at least 0.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`; target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes do not fit, a target lies outside of its range, or an option does.

    Example:
        >>> import torch
        >>> from lossproof.losses import quality_focal_loss
        >>> logits, quality = torch.tensor([-2.0, 0.0, 2.0]), torch.tensor([0.0, 0.5, 0.9])
        >>> quality_focal_loss(logits, quality, reduction="none")
        tensor([0.0018, 0.0000, 0.0001])

    Source:
        Li et al. (2020), Generalized focal loss.
    """
    target = _qualities(input, target, mask)
    number("beta", beta, minimum=0)

    def values(input: Tensor, target: Tensor) -> Tensor:
        p, q, cost_1, cost_0 = binary(input)
        # Of p - target and (1 - target) - (1 - p) the one that is exact near the target.
        gap = torch.where(target > 0.5, (1 - target) - q, p - target).abs()
        return _root_safe_power(gap, beta) * (target * cost_1 + (1 - target) * cost_0)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


def _qualities(input: Any, target: Any, mask: Any) -> Tensor:
    input, target = pair(input, target)
    counts = None if mask is None else fits("mask", mask, input, kind="bool")
    within("target", target, 0, 1, where=counts)
    quality: Tensor = target
    return quality


def _root_safe_power(gap: Tensor, exponent: float) -> Tensor:
    """A distance to a power; a root has an infinite slope at 0, for which 0 stands here."""
    if exponent >= 1 or exponent == 0:
        powered: Tensor = gap**exponent
        return powered
    nothing = gap == 0
    powered = torch.where(nothing, 1.0, gap) ** exponent
    return torch.where(nothing, 0.0, powered)


QualityFocalLoss = as_module(quality_focal_loss)


@loss(
    inputs="input float[8,5]; target binary[8,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("VFL", "VarifocalNet", "detection"),
    peers={"mmdetection": "the same"},
)
def varifocal_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Varifocal loss: cross entropy for objects, by their quality, and focal loss for the rest.

    .. math::
        v = \begin{cases}
            -q \big(q \log p + (1 - q) \log(1 - p)\big) & q > 0 \\
            -\alpha\, p^\gamma \log(1 - p) & q = 0
        \end{cases} \qquad p = \sigma(x)

    Only what is no object loses weight: objects are rare, and their signal is kept whole.

    Args:
        input: logits, any shape, floating point.
        target: qualities :math:`q` from 0 to 1 (the IoU of the predicted box, 0 for what is no
            object), the shape of ``input``, floating point.
        alpha: the weight of what is no object, at least 0.
        gamma: how strongly well predicted background loses weight, at least 0.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`; target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes do not fit, a target lies outside of its range, or an option does.

    Example:
        >>> import torch
        >>> from lossproof.losses import varifocal_loss
        >>> logits, quality = torch.tensor([-2.0, 0.0, 2.0]), torch.tensor([0.0, 0.5, 0.9])
        >>> varifocal_loss(logits, quality, reduction="none")
        tensor([0.0014, 0.3466, 0.2942])

    Source:
        Zhang et al. (2021), VarifocalNet: an IoU-aware dense object detector.
    """
    target = _qualities(input, target, mask)
    number("alpha", alpha, minimum=0)
    number("gamma", gamma, minimum=0)

    def values(input: Tensor, target: Tensor) -> Tensor:
        p, _, cost_1, cost_0 = binary(input)
        of_object = target * (target * cost_1 + (1 - target) * cost_0)
        return torch.where(target > 0, of_object, alpha * power(p, cost_1, gamma) * cost_0)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


VarifocalLoss = as_module(varifocal_loss)


@loss(
    inputs="input float[8,5]; target positive[8]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("DFL", "generalized focal loss", "GFL", "detection", "YOLO"),
    peers={"ultralytics, mmdetection": "the same, without a check of the target"},
)
def distribution_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Distribution focal loss: a coordinate as a distribution over bins, sharp at its target.

    .. math::
        v = -(c + 1 - y) \log p_c - (y - c) \log p_{c+1}, \qquad
        c = \lfloor y \rfloor, \quad p = \mathrm{softmax}(x)

    Cross entropy with the two bins next to the target, each by its nearness: the mean of the best
    distribution is the target.

    Args:
        input: logits of the bins :math:`(*, C)`, floating point; bin :math:`c` stands for the
            coordinate :math:`c`.
        target: coordinates :math:`y` from 0 to :math:`C - 1`, :math:`(*)`, floating point.
        weight: how much each coordinate counts, :math:`(*)` or 1 where it is the same for all.
        mask: which coordinates count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of coordinates that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, C)`; target: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes do not fit, a target lies outside of its range, or an option does.

    Example:
        >>> import torch
        >>> from lossproof.losses import distribution_focal_loss
        >>> logits = torch.tensor([[0.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 0.0]])
        >>> distribution_focal_loss(logits, torch.tensor([1.5, 3.0]), reduction="none")
        tensor([0.9938, 2.4938])

    Source:
        Li et al. (2020), Generalized focal loss.
    """
    tensor("input", input)
    bins = input.shape[-1] if input.ndim else 0
    tensor("target", target)
    if bins == 0 or input.shape[:-1] != target.shape:
        raise ValueError(
            "`input` must have the shape of `target` and an axis of bins, (*, C), "
            f"got {list(input.shape)} for {list(target.shape)}"
        )
    same_device(input, target, ("input", "target"))
    counts = None if mask is None else fits("mask", mask, target, kind="bool")
    within("target", target, 0, bins - 1, where=counts)
    if counts is not None:
        input = torch.where(counts.unsqueeze(-1), input, 0.0)
        target = torch.where(counts, target, 0.0)
    place = torch.arange(bins, dtype=input.dtype, device=input.device)
    share = torch.relu(1 - (target.unsqueeze(-1) - place).abs())
    cost = F.softplus(margins(input.reshape(-1, bins))).reshape(input.shape)
    values = (share * cost).sum(-1)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


DistributionFocalLoss = as_module(distribution_focal_loss)
