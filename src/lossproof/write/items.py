"""Items and their parts: the first axes of a tensor count items, the others belong to each."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def over_items(values: Tensor, parts: Tensor) -> Tensor:
    """One number for each item, shaped so that it multiplies the parts of each.

    Args:
        values: a number for each item, of any shape.
        parts: a tensor whose first axes are those of ``values``.

    Example:
        >>> import torch
        >>> from lossproof.write.items import over_items
        >>> over_items(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return values.reshape(*values.shape, *[1] * (parts.ndim - values.ndim))
