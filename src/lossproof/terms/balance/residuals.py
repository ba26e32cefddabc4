"""Terms that are given as their residual at every point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lossproof.terms.terms import solving_dtype
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


def all_given(option: str, names: Iterable[str], residuals: Any) -> None:
    """The terms that an option names are there, if only as ``None``.

    Raises:
        TypeError: the residuals are no mapping.
        ValueError: there is no such term.
    """
    if not isinstance(residuals, Mapping):
        raise TypeError(
            "`residuals` must be a mapping from the name of each term to a tensor, got "
            f"{type(residuals).__name__}"
        )
    missing = [name for name in names if name not in residuals]
    if missing:
        raise ValueError(
            f"`{option}` must name terms of {list(residuals)}, got {missing}; give None for a term "
            "that is absent in this step"
        )


def mean_square(residual: Tensor, factors: Tensor | None = None) -> Tensor:
    """The mean over all entries of the squares, in float32 at least.

    Args:
        residual: with a point in each row.
        factors: what the residual of each point is multiplied by before.
    """
    wide = residual.to(torch.promote_types(residual.dtype, torch.float32))
    if factors is not None:
        wide = wide * factors.to(wide).view(-1, *[1] * (wide.dim() - 1))
    return wide.square().mean()


def magnitudes(residual: Tensor) -> Tensor:
    """The Euclidean norm of the residual at every point."""
    norms: Tensor = torch.linalg.vector_norm(
        residual.flatten(1) if residual.dim() > 1 else residual[:, None],
        dim=1,
        dtype=solving_dtype(residual.device),
    )
    return norms


def unweighted(name: str, given: Any) -> Tensor | None:
    """A term that is not weighted by point: the mean square of a residual, or a scalar as it is."""
    if given is None:
        return None
    term = tensor(f"terms[{name!r}]", given)
    return term if term.dim() == 0 else mean_square(residual_vector(name, term))
