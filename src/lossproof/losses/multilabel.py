"""Losses for samples that may have any number of labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses._class_targets import class_logits, outcomes
from lossproof.losses._logits import binary, binary_constant, power
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import among, axes, fits, number, same_shape, tensor
from lossproof.write.module import as_module
from lossproof.write.sweeping import Gradient, Values, reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,5]; target binary[8,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("asl", "multi-label", "imbalance"),
    peers={
        "timm": "clamps the logarithms, so that a confidently missed label has no gradient; sums "
        "over the classes; in float32 whatever the input",
    },
)
def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Asymmetric loss (ASL): a focal loss that lets go of easy negatives altogether.

    .. math::
        v = -t\, (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m),
        \qquad p = \sigma(x), \quad p_m = \max(p - m, 0)

    A negative whose probability is below the margin :math:`m` costs nothing; one that is near 1 has
    a small gradient again, for it is likely to be mislabelled. The published code sums over the
    classes where ``"mean"`` takes the mean.

    Args:
        input: logits, any shape, floating point.
        target: 1 for a label that is there, 0 for one that is not, or probabilities between them;
            the shape of ``input``, floating point.
        gamma_neg: how strongly well predicted negatives lose weight, at least 0.
        gamma_pos: how strongly well predicted positives lose weight, at least 0.
        clip: the margin :math:`m` of the negatives, from 0 to less than 1.
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
        >>> from lossproof.losses import asymmetric_loss
        >>> logits, target = torch.tensor([-3.0, 0.0, 3.0, -3.0]), torch.tensor([0.0, 0, 0, 1])
        >>> asymmetric_loss(logits, target, reduction="none")
        tensor([0.0000, 0.0245, 1.5454, 2.9040])

    Source:
        Ridnik et al. (2021), Asymmetric loss for multi-label classification.
    """
    target = outcomes(input, target, mask)
    number("gamma_neg", gamma_neg, minimum=0)
    number("gamma_pos", gamma_pos, minimum=0)
    number("clip", clip, minimum=0, below=1)
    values, gradient = _asymmetric(gamma_neg, gamma_pos, clip)
    return reduce_swept(
        values,
        (input, target),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=gradient,
    )


def _asymmetric(gamma_neg: float, gamma_pos: float, clip: float) -> tuple[Values, Gradient]:
    """The values, and the values with their derivative in the logits."""

    def values(input: Tensor, target: Tensor) -> Tensor:
        if clip == 0:
            p, q, cost_1, cost_0 = binary(input)
            positive = power(q, cost_0, gamma_pos) * cost_1
            return target * positive + (1 - target) * power(p, cost_1, gamma_neg) * cost_0
        q = torch.sigmoid(-input)
        positive = power(q, -F.logsigmoid(-input), gamma_pos) * -F.logsigmoid(input)
        # From q: where p is near 1, the derivative of p is lost in rounding and that of q is not.
        excess = torch.relu((1 - clip) - q)
        left_over = 0.0 if gamma_neg >= 1 else torch.finfo(q.dtype).tiny
        negative = _power(excess + left_over, gamma_neg) * -torch.log1p(-excess)
        return target * positive + (1 - target) * negative

    def gradient(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        p, q, cost_1, cost_0 = binary_constant(input)
        positive = power(q, cost_0, gamma_pos) * target
        if clip == 0:
            focus = power(p, cost_1, gamma_neg)
            negative = torch.addcmul(focus, focus, target, value=-1)  # focus * (1 - target)
            found = (positive * cost_1).addcmul_(negative, cost_0)
            up = cost_0.mul_(q).mul_(gamma_neg).add_(p).mul_(negative)
        else:
            excess = (p - clip).clamp_min_(0)
            log_left = excess.neg().log1p_()
            focus = (excess > 0).to(p.dtype) if gamma_neg == 0 else _power(excess, gamma_neg)
            negative = focus.addcmul_(focus, target, value=-1)
            found = (positive * cost_1).addcmul_(negative, log_left, value=-1)
            up = log_left.div_(excess.clamp_min_(torch.finfo(p.dtype).tiny)).mul_(-gamma_neg)
            up = up.add_((q + clip).reciprocal_()).mul_(p).mul_(q).mul_(negative)
        down = cost_1.mul_(p).mul_(gamma_pos).add_(q).mul_(positive)
        return found, up.sub_(down)

    return values, gradient


def _power(base: Tensor, exponent: float) -> Tensor:
    """A power; that of the published setting without the general, slow one."""
    return base.square().square() if exponent == 4 else base**exponent


AsymmetricLoss = as_module(asymmetric_loss)


@loss(
    inputs="input float[8,5]; target binary[8,5]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="ZLPRLoss",
    also=("multi-label", "zero-bounded log-sum-exp", "pairwise rank"),
    peers={"timm": "the same, in float32 whatever the input"},
)
def zlpr_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""ZLPR: every label that is there above 0, every other below 0, and none counts by itself.

    .. math::
        v = \log\Big(1 + \sum_{c \in P} e^{-x_c}\Big) + \log\Big(1 + \sum_{c \notin P} e^{x_c}\Big)

    The multi-label kin of cross entropy: one value for each sample, that hardly grows with the
    number of classes that are predicted well.

    Args:
        input: logits, (N, C, \*), floating point. What is above 0 is predicted to be there.
        target: 1 for the labels :math:`P` that are there, 0 for the others, the shape of ``input``;
            bool or numbers.
        weight: how much each sample counts, (N, \*), or 1 on an axis where it is the same for all.
        mask: which samples count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(N, *)`.

    Raises:
        TypeError: a tensor is of the wrong kind.
        ValueError: the shapes differ, there are no classes, or a target is neither 0 nor 1.

    Example:
        >>> import torch
        >>> from lossproof.losses import zlpr_loss
        >>> logits = torch.tensor([[4.0, -4.0, -4.0], [0.0, 0.0, 0.0]])
        >>> zlpr_loss(logits, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), reduction="none")
        tensor([0.0541, 1.7918])

    Source:
        Su et al. (2022), ZLPR: a novel loss for multi-label classification.
    """
    axes("input", class_logits(input), -2, layout="(N, C, *)")
    if mask is not None:
        fits("mask", mask, input.select(1, 0), kind="bool")
    where = None if mask is None else mask.unsqueeze(1)
    same_shape(input, tensor("target", target, "any"))
    target = among("target", target, (0, 1), where=where)

    def values(input: Tensor, target: Tensor) -> Tensor:
        there = target > 0
        missed = _log_one_plus_sum_exp(-input, there)
        return missed + _log_one_plus_sum_exp(input, ~there)

    return reduce_swept(
        values,
        (input, target),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        class_axis=True,
    )


def _log_one_plus_sum_exp(input: Tensor, chosen: Tensor) -> Tensor:
    """log(1 + sum of exp) over the chosen classes."""
    score = torch.where(chosen, input, 0.0)
    top = score.detach().amax(1, keepdim=True).clamp_min(0)
    total = torch.where(chosen, torch.exp(score - top), 0.0).sum(1)
    top = top.squeeze(1)
    return top + torch.log1p(torch.expm1(-top) + total)


ZLPRLoss = as_module(zlpr_loss, name="ZLPRLoss")
