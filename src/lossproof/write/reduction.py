"""Where the values of the items of a batch become a number, and the options that say how."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from lossproof.write.arguments import REDUCTIONS, choice, fits, number, tensor, within
from lossproof.write.precision import widened

Tensor = torch.Tensor


def reduce(
    values: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Reduce the values of the items to a loss.

    .. math::
        \text{none: } w_i v_i \qquad
        \text{sum: } \sum_i w_i v_i \qquad
        \text{mean: } \frac{\sum_i w_i v_i}{\sum_i w_i}

    The sums run over the items that count, and without weights :math:`w_i = 1`. A ``normalizer``
    takes the place of the denominator. A batch in which nothing counts gives 0 with zero gradients.
    An item that does not count has the value 0 and no gradient, whatever its value was.

    Args:
        values: the loss of each item, any shape, floating point.
        weight: how much each item counts, not negative. It has the shape of ``values``, or one with
            as many axes and a 1 where it is the same for all.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: which items count, bool, shaped like ``weight``.
        normalizer: what ``"mean"`` divides by instead: the number of items (or the sum of their
            weights) of the *whole* batch where this is a part of it, as in gradient accumulation
            and data parallelism. A positive number or a tensor of one element.

    Returns:
        A scalar, or for ``"none"`` a tensor of the shape of ``values``. Half precision is summed in
        float32 and returned in its own dtype.

    Raises:
        TypeError: an argument is not of the type above.
        ValueError: a shape does not fit, or ``reduction`` is none of the three.

    Example:
        >>> import torch
        >>> from lossproof import reduce
        >>> values = torch.tensor([1.0, 2.0, 6.0])
        >>> reduce(values)
        tensor(3.)
        >>> reduce(values, torch.tensor([1.0, 1.0, 2.0]))
        tensor(3.7500)
        >>> reduce(values, mask=torch.tensor([True, True, False]))
        tensor(1.5000)
        >>> halves = [reduce(part, normalizer=3) for part in values.split(2)]
        >>> sum(halves)
        tensor(3.)
    """
    choice("reduction", reduction, REDUCTIONS)
    normalizer = usable_normalizer(normalizer)
    dtype = tensor("values", values).dtype
    values = widened(values)
    if mask is not None:
        mask = fits("mask", mask, values, kind="bool")
        values = torch.where(mask, values, 0.0)
    if weight is not None:
        weight = fits("weight", weight, values)
        if mask is not None:  # an item that does not count may have any weight, NaN among them
            weight = torch.where(mask, weight, 0.0)
        values = values * weight
    if reduction == "none":
        return values.to(dtype)
    total = values.sum()
    if reduction == "mean":
        total = divide(total, denominator(values, weight, mask, normalizer))
    return total.to(dtype)


def usable_normalizer(normalizer: float | Tensor | None) -> float | Tensor | None:
    """The normalizer, a number or a tensor of one, whether the reduction asks for it or not."""
    if normalizer is None:
        return None
    if not isinstance(normalizer, Tensor):
        return number("normalizer", normalizer, minimum=0)
    if normalizer.numel() != 1 or normalizer.is_complex():
        raise ValueError(
            "`normalizer` must hold one number, "
            f"got {normalizer.dtype} of shape {list(normalizer.shape)}"
        )
    if not torch.compiler.is_compiling():  # an assertion amid a sum would keep it from being fused
        within("normalizer", normalizer, 0)
    return normalizer.reshape(())


def denominator(
    values: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    normalizer: float | Tensor | None,
) -> float | Tensor:
    """What a mean divides by: the normalizer, or the weights that count, or the number of items."""
    if isinstance(normalizer, Tensor):
        return normalizer.to(values.device)
    if normalizer is not None:
        return normalizer
    if weight is not None:
        # As exact as the values, and never in half precision: 65,520 ones are infinite in float16.
        dtype = torch.promote_types(torch.promote_types(weight.dtype, values.dtype), torch.float32)
        return weight.expand_as(values).sum(dtype=dtype)
    if mask is not None:
        return mask.expand_as(values).sum()
    return values.numel()


def divide(total: Tensor, by: float | Tensor) -> Tensor:
    """The quotient, and 0 with zero gradients where the denominator is 0."""
    if isinstance(by, Tensor):
        nothing = by == 0
        return torch.where(nothing, 0.0 * total, total) / torch.where(nothing, 1, by)
    return total / by if by else 0.0 * total


def legacy_reduction(options: dict[str, Any], *, stacklevel: int = 3) -> dict[str, Any]:
    """Replace ``size_average`` and ``reduce`` by the ``reduction`` they mean in ``torch.nn``.

    Args:
        options: keyword arguments; they are not changed.
        stacklevel: whose line the warning names, as for :func:`warnings.warn`.
    """
    if "size_average" not in options and "reduce" not in options:
        return options
    options = dict(options)
    size_average, reduce = options.pop("size_average", None), options.pop("reduce", None)
    if size_average is None and reduce is None:
        return options
    if reduce is False:
        meant = "none"
    else:
        meant = "sum" if size_average is False else "mean"
    warnings.warn(
        f"`size_average` and `reduce` are deprecated: use reduction={meant!r}",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
    options["reduction"] = meant
    return options
