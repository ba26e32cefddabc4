"""The norm of the gradient of each parameter, as the optimizer is about to see it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor


def local_gradients(parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of each parameter: of a sharded one its part here, of a sparse one its rows."""
    return [_local(parameter.grad) for parameter in parameters]


def _local(grad: Tensor | None) -> Tensor | None:
    if grad is None:
        return None
    grad = grad.detach()
    if is_sharded(grad):
        grad = grad.to_local()  # type: ignore[attr-defined]
    if grad.layout is torch.sparse_coo:
        # Rows that occur several times are to be added up before a norm is taken.
        return grad.coalesce().values()
    return grad


def norms_of(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The Euclidean norm of each, as a number on its device."""
    return list(torch._foreach_norm(list(gradients))) if gradients else []


def norms_now(
    names: Sequence[str], gradients: Sequence[Tensor | None], scale: float
) -> dict[str, float]:
    """The norm of each gradient that there is, by name, where numbers need not be waited for.

    Args:
        names: the names of the parameters.
        gradients: their gradients.
        scale: the loss scale that is in them.
    """
    given = [(n, grad) for n, grad in zip(names, gradients, strict=True) if grad is not None]
    if not given:
        return {}
    norms = norms_of([grad for _, grad in given])
    return {
        # An infinite norm of finite numbers is an overflow of its own squares.
        name: (norm if (norm := found.item()) < float("inf") else _exact(grad)) / scale
        for (name, grad), found in zip(given, norms, strict=True)
    }


def total(norms: Mapping[str, float] | None) -> float | None:
    """The norm over all parameters; ``None`` where they were not looked at."""
    return None if norms is None else math.hypot(*norms.values())


def _exact(gradient: Tensor) -> float:
    dtype = torch.complex128 if gradient.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(gradient.to(dtype)))
