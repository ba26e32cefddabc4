"""Losses between logits and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses._class_targets import outcomes, reduce_labels, reduce_margins
from lossproof.losses._logits import (
    binary,
    binary_constant,
    cost_of_label,
    cross_entropy_gradient,
    margin,
    margin_gradient,
)
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import number, same_device, tensor, within
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs=("input float[8,5]; target int[8]<5", "input float[4,3,6]; target int[4,6]<3"),
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("ce", "log loss", "negative log likelihood", "label smoothing", "softmax"),
    peers={
        "torch": "NaN where every label is ignored or the batch is empty; a mean over soft targets "
        "divides by the number of items, with class weights too; an ignored logit that is NaN "
        "makes the gradient NaN; below 1e-7 the value is 0",
        "timm, smp": "soft targets and label smoothing in classes of their own; smp's cannot be "
        "called without smooth_factor",
    },
)
def cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross entropy between the softmax of logits and a class, or a distribution over classes.

    .. math::
        v = -\sum_c w_c\, t_c \log p_c, \qquad p = \mathrm{softmax}(x)

    where :math:`t` is 1 at the label, or the target itself; with label smoothing
    :math:`\varepsilon` it becomes :math:`(1 - \varepsilon) t + \varepsilon / C`. The values are
    those of ``torch.nn.functional.cross_entropy`` but for three cases: where nothing counts the
    loss is 0, not NaN; logits of ignored items may be NaN; and a mean over soft targets with class
    weights is divided by the weights as it is for labels (a one-hot target gives the same loss as
    its label). Small values keep their precision: torch rounds all below 1e-7 to 0.

    Args:
        input: logits, (C) or (N, C, \*), floating point.
        target: labels from 0 to C - 1, () or (N, \*), integers; or probabilities in the shape of
            ``input``, floating point.
        label_smoothing: the part :math:`\varepsilon` of the target that is spread evenly over all
            classes, from 0 to 1.
        weight: the weight :math:`w` of each class, (C), not negative.
        ignore_index: the label of items that do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the labels that count, :math:`\sum_c w_c t_c` of each; without weights by the number
            of items that count.
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
        >>> from lossproof.losses import cross_entropy_loss
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
        >>> cross_entropy_loss(logits, torch.tensor([0, 2, -100]), reduction="none")
        tensor([0.1698, 1.0986, 0.0000])
        >>> cross_entropy_loss(logits, torch.tensor([0, 2, -100]))
        tensor(0.6342)

    Source:
        Bridle (1990), Training stochastic model recognition algorithms as networks can lead to
        maximum mutual information estimation of parameters; label smoothing: Szegedy et al. (2016),
        Rethinking the Inception architecture for computer vision.
    """
    return reduce_labels(
        lambda logits, label: cost_of_label(margin(logits, label)),
        input,
        target,
        of_classes=lambda logits: -F.log_softmax(logits, 1),
        gradient=margin_gradient(cross_entropy_gradient),
        weight=weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


CrossEntropyLoss = as_module(cross_entropy_loss)


@loss(
    inputs="input float[8,5]; target int[8]<5",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("poly", "poly loss", "polyloss"),
    peers={
        "optax": "the same, for soft targets alone",
        "timm": "in float32 whatever the input; for binary targets as well",
    },
)
def poly1_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    epsilon: float = 1.0,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Poly-1: cross entropy with another weight on the first term of its series in 1 - p.

    .. math::
        v = \sum_c w_c\, t_c \left(-\log p_c + \epsilon (1 - p_c)\right),
        \qquad p = \mathrm{softmax}(x)

    with :math:`t` as in :func:`cross_entropy_loss`. :math:`\epsilon = 0` is cross entropy,
    :math:`\epsilon = -1` takes the first term away.

    Args:
        input: logits, (C) or (N, C, \*), floating point.
        target: labels from 0 to C - 1, () or (N, \*), integers; or probabilities in the shape of
            ``input``, floating point.
        epsilon: what is added to the coefficient 1 of the first term, at least -1.
        label_smoothing: the part of the target that is spread evenly over all classes.
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
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import poly1_cross_entropy_loss
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
        >>> poly1_cross_entropy_loss(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.3261, 1.7653])

    Source:
        Leng et al. (2022), PolyLoss: a polynomial expansion perspective of classification loss
        functions.
    """
    number("epsilon", epsilon, minimum=-1)

    def cost(margin: Tensor) -> Tensor:
        label = binary(-margin)
        return label.cost_1 + epsilon * label.q

    def cost_and_slope(margin: Tensor) -> tuple[Tensor, Tensor]:
        p, q, cost_1, _ = binary_constant(-margin)
        return cost_1 + epsilon * q, (1 + epsilon * p) * q

    return reduce_margins(
        cost,
        input,
        target,
        gradient=cost_and_slope,
        weight=weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


Poly1CrossEntropyLoss = as_module(poly1_cross_entropy_loss)


@loss(
    inputs="input float[8,5]; target binary[8,5]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="BCEWithLogitsLoss",
    also=("bce", "sigmoid", "multilabel", "logistic"),
    peers={
        "torch": "a mean with weights divides by the number of values; NaN for an empty batch; "
        "below 1e-7 the value of a right 0 is rounded to 0",
        "keras": "clamps probabilities: no gradient where it is confidently wrong",
    },
)
def binary_cross_entropy_with_logits_loss(
    input: Tensor,
    target: Tensor,
    *,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross entropy between the sigmoid of a logit and 0 or 1, or a probability.

    .. math::
        v = -w_+\, t \log \sigma(x) - (1 - t) \log \sigma(-x)

    With label smoothing :math:`\varepsilon` the target becomes
    :math:`(1 - \varepsilon) t + \varepsilon / 2`. The values are those of
    ``torch.nn.functional.binary_cross_entropy_with_logits``; a mean with weights differs, for it
    is divided by the sum of the weights, and where nothing counts the loss is 0, not NaN.

    Args:
        input: logits, any shape, floating point.
        target: 0, 1 or probabilities between them, the shape of ``input``, floating point.
        pos_weight: the weight :math:`w_+` of positive targets: one number, (C) for an input (N, C),
            or as many axes as ``input`` with 1 where it is the same for all. A mean does not divide
            it out.
        label_smoothing: the part :math:`\varepsilon` of the target that is spread evenly over both
            outcomes, from 0 to 1.
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
        >>> from lossproof.losses import binary_cross_entropy_with_logits_loss
        >>> logits, target = torch.tensor([-20.0, 0.0, 3.0]), torch.tensor([0.0, 1.0, 0.5])
        >>> binary_cross_entropy_with_logits_loss(logits, target, reduction="none")
        tensor([2.0612e-09, 6.9315e-01, 1.5486e+00])

    Source:
        Cox (1958), The regression analysis of binary sequences.
    """
    tensors: tuple[Tensor, ...] = (input, outcomes(input, target, mask, label_smoothing))
    if pos_weight is not None:
        tensors += (_positive_weight(pos_weight, input),)

    def values(input: Tensor, target: Tensor, *pos_weight: Tensor) -> Tensor:
        outcome = binary(input)
        positive = target * pos_weight[0] if pos_weight else target
        return positive * outcome.cost_1 + (1 - target) * outcome.cost_0

    def gradient(input: Tensor, target: Tensor, *pos_weight: Tensor) -> tuple[Tensor, Tensor]:
        outcome = binary_constant(input)
        positive = target * pos_weight[0] if pos_weight else target
        negative = 1 - target
        found = outcome.cost_1.mul_(positive).addcmul_(negative, outcome.cost_0)
        return found, outcome.p.mul_(negative).addcmul_(positive, outcome.q, value=-1)

    return reduce_swept(
        values,
        tensors,
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=gradient,
    )


def _positive_weight(pos_weight: Tensor, input: Tensor) -> Tensor:
    """The weight of positive targets in the shape of the input."""
    pos_weight = tensor("pos_weight", pos_weight)
    same_device(input, pos_weight, ("input", "pos_weight"))
    by_class = pos_weight.ndim == 1 and input.ndim == 2
    fitting = pos_weight.unsqueeze(0) if by_class else pos_weight
    if pos_weight.numel() == 1:
        fitting = pos_weight.reshape([1] * input.ndim)
    if fitting.ndim != input.ndim or any(
        size not in {1, wanted} for size, wanted in zip(fitting.shape, input.shape, strict=True)
    ):
        raise ValueError(
            "`pos_weight` must hold one number, or one for each class of an input (N, C), or have "
            f"as many axes as `input`, {list(input.shape)}, got shape {list(pos_weight.shape)}"
        )
    within("pos_weight", pos_weight, 0)
    return fitting.to(input.dtype).expand_as(input)


BCEWithLogitsLoss = as_module(binary_cross_entropy_with_logits_loss, name="BCEWithLogitsLoss")
