"""Losses for labels of which some are wrong."""

from __future__ import annotations

import torch

from lossproof.losses._class_targets import reduce_labels, reduce_margins
from lossproof.losses._logits import binary, binary_constant, cost_of_label, margin, margin_gradient
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import number
from lossproof.write.module import as_module

Tensor = torch.Tensor


@loss(
    inputs="input float[8,5]; target int[8]<5",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("gce", "lq loss", "noise robust", "truncated"),
    peers={"keras": "of probabilities; q=0.5 by default"},
)
def generalized_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    q: float = 0.7,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Generalised cross entropy (GCE): between cross entropy and the mean absolute error.

    .. math::
        v = \sum_c w_c\, t_c \frac{1 - p_c^q}{q}, \qquad p = \mathrm{softmax}(x)

    with :math:`t` as in :func:`cross_entropy_loss`. The value is at most :math:`1/q`, and a label
    that the model finds impossible has no gradient: it is taken to be wrong. For
    :math:`q \to 0` it is cross entropy, for :math:`q = 1` half the mean absolute error of the
    probabilities.

    Args:
        input: logits, (C) or (N, C, \*), floating point.
        target: labels from 0 to C - 1, () or (N, \*), integers; or probabilities in the shape of
            ``input``, floating point.
        q: how robust it is, above 0 and at most 1.
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
        >>> from lossproof.losses import generalized_cross_entropy_loss
        >>> logits = torch.tensor([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]])
        >>> generalized_cross_entropy_loss(logits, torch.tensor([0, 0, 0]), reduction="none")
        tensor([5.4918e-01, 9.3576e-14, 1.4286e+00])

    Source:
        Zhang, Sabuncu (2018), Generalized cross entropy loss for training deep neural networks with
        noisy labels.
    """
    number("q", q, above=0, maximum=1)

    def cost(margin: Tensor) -> Tensor:
        exponent = q * cost_of_label(margin)  # -log p^q
        # The derivative of expm1 is computed as its value plus 1, of which far out nothing is left.
        near = -torch.expm1(-exponent.clamp(max=1))
        return torch.where(exponent < 1, near, 1 - torch.exp(-exponent)) / q

    def cost_and_slope(margin: Tensor) -> tuple[Tensor, Tensor]:
        label = binary_constant(-margin)
        exponent = -q * label.cost_1
        return -torch.expm1(exponent) / q, torch.exp(exponent) * label.q

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


GeneralizedCrossEntropyLoss = as_module(generalized_cross_entropy_loss)


@loss(
    inputs="input float[8,5]; target int[8]<5",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("sce", "reverse cross entropy", "rce", "noise robust"),
)
def symmetric_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Symmetric cross entropy (SCE): cross entropy, and that of the label given the prediction.

    .. math::
        v = w_y \left(-\alpha \log p_y - \beta A (1 - p_y)\right), \qquad p = \mathrm{softmax}(x)

    The second part is the reverse cross entropy :math:`-\sum_c p_c \log t_c` of a label, whose
    :math:`\log 0` is taken to be :math:`A`.

    Args:
        input: logits, (C) or (N, C, \*), floating point.
        target: labels from 0 to C - 1, () or (N, \*), integers.
        alpha: the factor :math:`\alpha` of cross entropy, at least 0. The paper has 0.1 for 10
            classes and 6 for 100.
        beta: the factor :math:`\beta` of reverse cross entropy, at least 0. The paper has 1 for 10
            classes and 0.1 for 100.
        log_zero: what :math:`A` stands for the logarithm of 0, below 0.
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
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import symmetric_cross_entropy_loss
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 30.0]])
        >>> symmetric_cross_entropy_loss(logits, torch.tensor([0, 0]), reduction="none")
        tensor([2.0693, 7.0000])

    Source:
        Wang et al. (2019), Symmetric cross entropy for robust learning with noisy labels.
    """
    number("alpha", alpha, minimum=0)
    number("beta", beta, minimum=0)
    number("log_zero", log_zero, below=0)
    reverse = -beta * log_zero

    def values(logits: Tensor, label: Tensor) -> Tensor:
        of_label = binary(-margin(logits, label))
        return alpha * of_label.cost_1 + reverse * of_label.q

    def cost_and_slope(margin: Tensor) -> tuple[Tensor, Tensor]:
        p, q, cost_1, _ = binary_constant(-margin)
        return alpha * cost_1 + reverse * q, (alpha + reverse * p) * q

    return reduce_labels(
        values,
        input,
        target,
        gradient=margin_gradient(cost_and_slope),
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


SymmetricCrossEntropyLoss = as_module(symmetric_cross_entropy_loss)
