"""Losses for classes of which some are rare."""

from __future__ import annotations

import torch

from lossproof.losses._class_targets import class_counts_of, class_logits, reduce_labels
from lossproof.losses._logits import cost_of_label, margin
from lossproof.losses.catalogue import loss
from lossproof.losses.classification import cross_entropy_loss
from lossproof.write.arguments import number
from lossproof.write.module import as_module

Tensor = torch.Tensor


@loss(
    inputs="input float[8,5]; target int[8]<5",
    options={"class_counts": torch.tensor([100, 50, 20, 5, 1])},
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("balanced softmax", "long tail", "imbalance", "prior"),
)
def logit_adjusted_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    class_counts: Tensor,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross entropy of logits to which the frequency of each class is added in training.

    .. math::
        v = -\sum_c w_c\, t_c \log p_c, \qquad p = \mathrm{softmax}(x + \tau \log n)

    The bare logits, used without the adjustment, then rank the classes as if all were equally
    frequent. With :math:`\tau = 1` this is the balanced softmax. :math:`\tau = 0` is
    :func:`cross_entropy_loss`, whose options it shares.

    Args:
        input: logits, (C) or (N, C, \*), floating point.
        target: labels from 0 to C - 1, () or (N, \*), integers; or probabilities in the shape of
            ``input``, floating point.
        class_counts: how often each class :math:`n_c` occurs in the training set, (C), positive.
            Only the proportions matter.
        tau: the strength :math:`\tau` of the adjustment, at least 0.
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
        ValueError: the shapes do not fit, a label is no class, a count is not positive, or an
            option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import logit_adjusted_cross_entropy_loss
        >>> logits, counts = torch.zeros(2, 2), torch.tensor([90, 10])
        >>> logit_adjusted_cross_entropy_loss(
        ...     logits, torch.tensor([0, 1]), class_counts=counts, reduction="none"
        ... )
        tensor([0.1054, 2.3026])

    Source:
        Menon et al. (2021), Long-tail learning via logit adjustment; Ren et al. (2020), Balanced
        meta-softmax for long-tailed visual recognition.
    """
    number("tau", tau, minimum=0)
    counts = class_counts_of(class_counts, class_logits(input))
    adjustment = tau * counts.log()
    return cross_entropy_loss(
        input + adjustment.view(-1, *[1] * max(input.ndim - 2, 0)),
        target,
        weight=weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


LogitAdjustedCrossEntropyLoss = as_module(logit_adjusted_cross_entropy_loss)


@loss(
    inputs="input float[8,5]; target int[8]<5",
    options={"class_counts": torch.tensor([100, 50, 20, 5, 1])},
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="LDAMLoss",
    also=("label-distribution-aware margin", "long tail", "imbalance"),
)
def ldam_loss(
    input: Tensor,
    target: Tensor,
    *,
    class_counts: Tensor,
    max_margin: float = 0.5,
    scale: float = 30.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""LDAM: cross entropy in which a class must win by a margin, the wider the rarer it is.

    .. math::
        v = -w_y \log \frac{e^{s (x_y - \Delta_y)}}
            {e^{s (x_y - \Delta_y)} + \sum_{c \ne y} e^{s x_c}},
        \qquad \Delta_c = \Delta_{\max} \left(\frac{\min_k n_k}{n_c}\right)^{1/4}

    The logits should be cosines, between -1 and 1, for the margins to mean something. The paper
    gives rare classes a ``weight`` as well, in the last part of the training.

    Args:
        input: logits, (C) or (N, C, \*), floating point.
        target: labels from 0 to C - 1, () or (N, \*), integers.
        class_counts: how often each class :math:`n_c` occurs in the training set, (C), positive.
            Only the proportions matter.
        max_margin: the margin :math:`\Delta_{\max}` of the rarest class, at least 0.
        scale: the factor :math:`s` of the logits, above 0.
        weight: the weight :math:`w` of each class, (C), not negative.
        ignore_index: the label of items that do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the labels that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(C)` or :math:`(N, C, *)`, target: :math:`()` or :math:`(N, *)`.
        - Output: scalar; for ``"none"`` :math:`()` or :math:`(N, *)`.

    Raises:
        TypeError: a tensor is of the wrong kind, or an option is no number.
        ValueError: the shapes do not fit, a label is no class, a count is not positive, or an
            option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import ldam_loss
        >>> logits, counts = torch.zeros(2, 2), torch.tensor([160, 10])
        >>> ldam_loss(logits, torch.tensor([0, 1]), class_counts=counts, reduction="none")
        tensor([ 7.5006, 15.0000])

    Source:
        Cao et al. (2019), Learning imbalanced datasets with label-distribution-aware margin loss.
    """
    number("max_margin", max_margin, minimum=0)
    number("scale", scale, above=0)
    counts = class_counts_of(class_counts, class_logits(input))
    extra = scale * max_margin * (counts.min() / counts) ** 0.25
    return reduce_labels(
        lambda logits, label: cost_of_label(margin(scale * logits, label) + extra[label]),
        input,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


LDAMLoss = as_module(ldam_loss, name="LDAMLoss")
