"""Terms that are given as their residual at every point."""

from __future__ import annotations

from typing import Any

import torch

from lossproof.write.arguments import tensor

Tensor = torch.Tensor


def residual_vector(name: str, given: Any) -> Tensor:
    """A residual with a point in each row.

    Args:
        name: the name of the term.
        given: a floating-point tensor of shape (N,), or (N, ...) for several equations.

    Raises:
        TypeError: it is no such tensor.
        ValueError: it has no axis of points, or no point.
    """
    residual = tensor(f"terms[{name!r}]", given)
    if residual.dim() == 0 or not residual.numel():
        raise ValueError(
            f"term {name!r} must be the residual at every point, a tensor with an axis of points, "
            f"got the shape {list(residual.shape)}"
        )
    return residual


def mean_square(residual: Tensor) -> Tensor:
    """The mean over all entries of the squares, in float32 at least."""
    return residual.to(torch.promote_types(residual.dtype, torch.float32)).square().mean()
