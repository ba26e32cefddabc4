"""The mean over a batch that is spread over ranks."""

from __future__ import annotations

from typing import Any

import torch

from lossproof.speed.ranks import gathered, group_of
from lossproof.write.arguments import fits
from lossproof.write.reduction import denominator, reduce

Tensor = torch.Tensor


def reduce_on_ranks(
    values: Tensor,
    weight: Tensor | None,
    reduction: str,
    *,
    mask: Tensor | None,
    normalizer: float | Tensor | None,
    across_ranks: Any,
) -> Tensor:
    """As :func:`lossproof.reduce`, where each rank has some of the values.

    The mean divides by the mean over the ranks of what counts. So the mean of the ranks' losses,
    which is what data parallelism trains on, is the mean over the whole batch, also where the ranks
    have different numbers of values.
    """
    group = group_of(across_ranks)
    if group is not None and reduction == "mean" and normalizer is None:
        if weight is not None:
            weight = fits("weight", weight, values)
            if mask is not None:
                weight = torch.where(mask, weight, 0.0)
        own = torch.as_tensor(denominator(values, weight, mask, None), device=values.device)
        (of_ranks,), _ = gathered("the denominator", [own.double().reshape(1)], group)
        normalizer = of_ranks.mean().to(torch.promote_types(values.dtype, torch.float32))
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)
