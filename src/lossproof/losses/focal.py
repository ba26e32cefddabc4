"""Focal losses: cross entropy with less weight on what is already predicted well."""

from __future__ import annotations

import torch

from lossproof.losses._class_targets import outcomes, reduce_margins
from lossproof.losses._logits import binary, binary_constant, power
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import number
from lossproof.write.module import as_module
from lossproof.write.sweeping import Gradient, Values, reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,5]; target binary[8,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("binary focal", "retinanet", "detection", "imbalance"),
    peers={
        "torchvision": "reduction='none' by default; alpha=-1 for none; its gradient is NaN for "
        "gamma below 1 where the probability rounds to 1; soft targets otherwise",
        "keras": "clamps probabilities: no gradient where it is confidently wrong",
        "kornia": "reduction='none' by default; ignored items count in a mean",
        "monai, smp": "no alpha by default",
    },
)
def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Focal loss of a logit for 0 or 1, as in RetinaNet.

    .. math::
        v = -\alpha\, t\, (1 - p)^\gamma \log p - (1 - \alpha)(1 - t)\, p^\gamma \log(1 - p),
        \qquad p = \sigma(x)

    :math:`\gamma = 0` without :math:`\alpha` is binary cross entropy. A soft target gives the mean
    of both outcomes' losses. RetinaNet divides the sum by the number of boxes: give it as
    ``normalizer``.

    Args:
        input: logits, any shape, floating point.
        target: 0, 1 or probabilities between them, the shape of ``input``, floating point.
        gamma: how strongly well predicted items lose weight, at least 0.
        alpha: the weight of positive items, from 0 to 1; negative ones have ``1 - alpha``.
            ``None`` leaves both at 1. A mean does not divide it out.
        label_smoothing: the part :math:`\varepsilon` of the target that is spread evenly over both
            outcomes, :math:`(1 - \varepsilon) t + \varepsilon / 2`.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, a target is not within 0 and 1, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import sigmoid_focal_loss
        >>> logits, target = torch.tensor([-3.0, 0.0, 3.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> sigmoid_focal_loss(logits, target, reduction="none")
        tensor([8.1962e-05, 4.3322e-02, 2.0747e+00])

    Source:
        Lin et al. (2017), Focal loss for dense object detection.
    """
    target = outcomes(input, target, mask, label_smoothing)
    number("gamma", gamma, minimum=0)
    if alpha is not None:
        number("alpha", alpha, minimum=0, maximum=1)
    values, gradient = _of_logits(gamma, alpha)
    return reduce_swept(
        values,
        (input, target),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=gradient,
    )


def _of_logits(gamma: float, alpha: float | None) -> tuple[Values, Gradient]:
    """The values, and the values with their derivative in the logits."""
    of_positive, of_negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def values(input: Tensor, target: Tensor) -> Tensor:
        outcome = binary(input)
        positive = power(outcome.q, outcome.cost_0, gamma) * outcome.cost_1
        negative = power(outcome.p, outcome.cost_1, gamma) * outcome.cost_0
        return of_positive * target * positive + of_negative * (1 - target) * negative

    def gradient(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        # In place where it can be: on a CPU, memory that is new costs more than the arithmetic.
        p, q, cost_1, cost_0 = binary_constant(input)
        positive = power(q, cost_0, gamma) * target
        focus = power(p, cost_1, gamma)
        negative = torch.addcmul(focus, focus, target, value=-1)  # focus * (1 - target)
        if alpha is not None:
            positive, negative = positive.mul_(of_positive), negative.mul_(of_negative)
        found = (positive * cost_1).addcmul_(negative, cost_0)
        down = cost_1.mul_(p).mul_(gamma).add_(q).mul_(positive)
        up = cost_0.mul_(q).mul_(gamma).add_(p).mul_(negative)
        return found, up.sub_(down)

    return values, gradient


SigmoidFocalLoss = as_module(sigmoid_focal_loss)


@loss(
    inputs=("input float[8,5]; target int[8]<5", "input float[4,3,6]; target int[4,6]<3"),
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("softmax focal", "multiclass focal", "categorical focal", "imbalance"),
    peers={
        "kornia, monai": "a mean divides by the number of classes, too, and by ignored pixels",
        "keras": "one alpha of 0.25 for all classes; clamps probabilities",
        "smp": "the mean of one sigmoid focal loss for each class, not a softmax",
        "pytorch-toolbelt": "the focal factor of the softmax on the cross entropy of a sigmoid",
    },
)
def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Focal loss of the softmax of logits for a class, or a distribution over classes.

    .. math::
        v = -\sum_c w_c\, \alpha_c\, t_c\, (1 - p_c)^\gamma \log p_c,
        \qquad p = \mathrm{softmax}(x)

    where :math:`t` is 1 at the label, or the target itself; with label smoothing
    :math:`\varepsilon` it becomes :math:`(1 - \varepsilon) t + \varepsilon / C`.
    :math:`\gamma = 0` is cross entropy. With ``gamma`` above 0 the loss of a soft target is not
    smallest at the target itself, but at a flatter distribution.

    Args:
        input: logits, (C) or (N, C, \*), floating point.
        target: labels from 0 to C - 1, () or (N, \*), integers; or probabilities in the shape of
            ``input``, floating point.
        gamma: how strongly well predicted items lose weight, at least 0.
        alpha: a factor :math:`\alpha` for each class, (C), not negative. Unlike ``weight`` it is
            not divided out by a mean.
        label_smoothing: the part :math:`\varepsilon` of the target that is spread evenly over all
            classes, from 0 to 1.
        weight: the weight :math:`w` of each class, (C), not negative.
        ignore_index: the label of items that do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the labels that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(C)` or :math:`(N, C, *)`, target: :math:`()`, :math:`(N, *)`, or the shape
          of the input.
        - Output: scalar; for ``"none"`` :math:`()` or :math:`(N, *)`.

    Raises:
        TypeError: a tensor is of the wrong kind, or an option is no number.
        ValueError: the shapes do not fit, a label is no class, a probability is not within 0 and
            1, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import focal_loss
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
        >>> focal_loss(logits, torch.tensor([0, 2, -100]), reduction="none")
        tensor([0.0041, 0.4883, 0.0000])

    Source:
        Lin et al. (2017), Focal loss for dense object detection.
    """
    number("gamma", gamma, minimum=0)

    def cost(margin: Tensor) -> Tensor:
        label = binary(-margin)
        return power(label.q, label.cost_0, gamma) * label.cost_1

    def cost_and_slope(margin: Tensor) -> tuple[Tensor, Tensor]:
        p, q, cost_1, cost_0 = binary_constant(-margin)
        focus = power(q, cost_0, gamma)
        return focus * cost_1, torch.addcmul(q, cost_1 * gamma, p).mul_(focus)

    return reduce_margins(
        cost,
        input,
        target,
        gradient=cost_and_slope,
        weight=weight,
        alpha=alpha,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


FocalLoss = as_module(focal_loss)
