"""Losses between several predictions of the same thing."""

from __future__ import annotations

import math

import torch

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, fits, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input float[8,3,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="JSDConsistencyLoss",
    also=("augmix", "jensen-shannon", "augmentation"),
    peers={
        "timm": "with the cross entropy of the first view in one class; clamps the mean "
        "probabilities, and its gradient is NaN where all are saturated",
    },
)
def jsd_consistency_loss(
    input: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Jensen-Shannon divergence between what is predicted for several views of a sample.

    .. math::
        v = \frac{1}{K} \sum_{k=1}^{K} \mathrm{KL}(p_k \,\|\, \bar p), \qquad
        p_k = \mathrm{softmax}(x_k), \quad \bar p = \frac{1}{K} \sum_k p_k

    It is 0 where all views agree and at most :math:`\log K`. AugMix adds 12 times this, over a
    clean and two augmented views, to the cross entropy of the clean one.

    Args:
        input: logits of the :math:`K` views of each sample, (N, K, C), floating point; for instance
            ``torch.stack([clean, augmented_1, augmented_2], 1)``.
        weight: how much each sample counts, (N).
        mask: which samples count, bool, (N). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, K, C)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: ``input`` is not floating point.
        ValueError: a shape does not fit, there are no views or no classes, or ``reduction`` is none
            of the three.

    Example:
        >>> import torch
        >>> from lossproof.losses import jsd_consistency_loss
        >>> nearer, opposed = [[0.0, 1.0], [1.0, 0.0]], [[0.0, 99.0], [99.0, 0.0]]
        >>> jsd_consistency_loss(torch.tensor([nearer, opposed]), reduction="none")
        tensor([0.1109, 0.6931])

    Source:
        Hendrycks et al. (2020), AugMix: a simple data processing method to improve robustness and
        uncertainty.
    """
    axes("input", tensor("input", input), 3, layout="(N, K, C)")
    if not input.shape[1] * input.shape[2]:
        raise ValueError(
            f"`input` must have at least one view and one class, got shape {list(input.shape)}"
        )
    if mask is not None:
        counts = fits("mask", mask, input[:, 0, 0], kind="bool")
        input = torch.where(counts.view(-1, 1, 1), input, 0.0)
    log_p = torch.log_softmax(input, 2)
    log_mean = torch.logsumexp(log_p, 1, keepdim=True) - math.log(input.shape[1])
    values = _divergence(log_p, log_mean).sum(2).mean(1)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _divergence(log_p: Tensor, log_m: Tensor) -> Tensor:
    """The terms of KL(p || m), each with m - p added: no term is negative, their sum is the same.

    That of ``p log(p / m)`` itself cancels where p is near m, down to rounded values below 0.
    """
    p, excess = log_p.exp(), log_m - log_p
    near = p * (torch.expm1(excess.clamp(max=1)) - excess)
    return torch.where(excess < 1, near, log_m.exp() - p - p * excess)


JSDConsistencyLoss = as_module(jsd_consistency_loss, name="JSDConsistencyLoss")
