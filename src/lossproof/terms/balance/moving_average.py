"""Moving averages of weights, which a step without an answer leaves as they are."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def moving_average(before: Tensor, target: Tensor, share: float) -> Tensor:
    """The average of weights with new ones, which take a share of it.

    Ratios of gradients are no numbers where a gradient is zero, as that of a constant term or of
    one that is solved. Such a weight is held, for there is nothing that it should follow.

    Args:
        before: the weights before.
        target: the new weights; infinite, NaN or 0 where there is no answer.
        share: the part of the new weights, from 0 to 1.

    Example:
        >>> import torch
        >>> from lossproof.terms.balance.moving_average import moving_average
        >>> moving_average(torch.ones(3), torch.tensor([3.0, torch.inf, torch.nan]), 0.5)
        tensor([2., 1., 1.])
    """
    target = torch.where(target.isfinite() & (target > 0), target, before)
    return (1 - share) * before + share * target
