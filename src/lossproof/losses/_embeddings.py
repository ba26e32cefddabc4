"""What losses of embeddings share: vectors of length one, checked pairs, sums over some others."""

from __future__ import annotations

from typing import Any

import torch

from lossproof.write.arguments import axes, fits, number, pair, same_device, tensor, within

Tensor = torch.Tensor


def embeddings(name: str, value: Any, *counts: int, layout: str = "(N, D)") -> Tensor:
    """Vectors along the last axis, which holds at least one number.

    Raises:
        TypeError: it is no floating-point tensor.
        ValueError: it has another number of axes than one of ``counts`` (without any: two), or
            vectors without numbers.
    """
    given = axes(name, tensor(name, value), *(counts or (2,)), layout=layout)
    if given.shape[-1] == 0:
        raise ValueError(
            f"`{name}` must hold vectors of at least one number, got {list(given.shape)}"
        )
    return given


def embedding_pair(first: Any, second: Any, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Two tensors (N, D), whose rows belong together, in the wider of their dtypes.

    Raises:
        TypeError: one is no floating-point tensor.
        ValueError: the shapes differ, or are not (N, D).
    """
    first, second = pair(first, second, names)
    dtype = torch.promote_types(first.dtype, second.dtype)
    return embeddings(names[0], first).to(dtype), second.to(dtype)


def scalar(name: str, value: Any, like: Tensor, *, above: float | None = None) -> float | Tensor:
    """A number, or a tensor without axes that may be learned.

    Raises:
        TypeError: it is neither.
        ValueError: it is out of range, or the tensor has axes or lies on another device.
    """
    if not isinstance(value, Tensor):
        return number(name, value, above=above)
    if tensor(name, value).ndim:
        raise ValueError(
            f"`{name}` must be a number or a tensor of shape [], got {list(value.shape)}"
        )
    if value.device.type != "cpu":  # a number on the CPU goes with tensors anywhere
        same_device(value, like, (name, "input"))
    if above is not None:
        within(name, value, above=above)
    return value


def counting(mask: Any, rows: Tensor) -> Tensor | None:
    """The mask of the rows of a tensor (N, D), one bool for each.

    Raises:
        TypeError: it is no bool tensor.
        ValueError: it does not have the shape (N,), or (1,).
    """
    if mask is None:
        return None
    items = rows.detach()[:, 0]
    return fits("mask", mask, items, kind="bool").expand_as(items)


def kept_rows(rows: Tensor, mask: Tensor | None) -> Tensor:
    """The rows that count; the others are 0, so that NaN there does no harm."""
    return rows if mask is None else torch.where(mask.unsqueeze(-1), rows, 0.0)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Each vector divided by its length. A vector of zeros stays one, with a finite gradient.

    The largest component is taken out first, so that no square overflows or vanishes. It is a
    constant to the gradient, for the direction does not depend on it.
    """
    size = vectors.detach().abs().amax(-1, keepdim=True)
    scaled = vectors / torch.where(size == 0, 1, size)
    squared = scaled.square().sum(-1, keepdim=True)
    return scaled / torch.where(squared == 0, 1, squared).sqrt()


def not_diagonal(logits: Tensor) -> Tensor:
    """A bool matrix, as large as the last two axes, that is false on its diagonal."""
    rows, columns = (torch.arange(size, device=logits.device) for size in logits.shape[-2:])
    return rows.unsqueeze(1) != columns


def log_sum_exp(
    logits: Tensor, kept: Tensor | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The log of the sum of exponentials over what is kept of each row.

    Args:
        logits: along the last axis.
        kept: which of them are kept, of their shape; without it all.
        mask: which columns count.

    Returns:
        The logs, which are 0 with zero gradients in rows of which nothing is kept, and which rows
        have something.
    """
    if logits.shape[-1] == 0:
        nothing = logits.sum(-1)
        return nothing, torch.zeros_like(nothing, dtype=torch.bool)
    if kept is not None:
        logits = torch.where(kept, logits, -torch.inf)
    if mask is not None:
        logits = logits + torch.where(mask, 0.0, -torch.inf).to(logits.dtype)
    # Not `torch.logsumexp`: its gradient is NaN in a row that is minus infinity everywhere.
    largest = logits.detach().amax(-1)
    some = largest != -torch.inf
    largest = torch.where(some, largest, 0.0)
    total = (logits - largest.unsqueeze(-1)).exp().sum(-1)
    return torch.where(some, total, 1.0).log() + largest, some


def log_one_plus_sum_exp(logits: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + sum of exponentials) over what is kept of each row.

    Returns:
        The logs, which are 0 with zero gradients in rows of which nothing is kept, and which rows
        have something.
    """
    logs, some = log_sum_exp(logits, kept)
    return with_one(logs, some), some


def with_one(logs: Tensor, some: Tensor) -> Tensor:
    """log(1 + sum of exponentials), of which the log-sum-exp is given, and whether it has terms."""
    return torch.where(some, -torch.nn.functional.logsigmoid(-logs), 0.0)
