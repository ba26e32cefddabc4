"""What the likelihoods of several distributions share."""

from __future__ import annotations

from typing import Any

import torch

from lossproof.write.arguments import fits, number, same_device, same_shape, tensor, within

Tensor = torch.Tensor


def counting(mask: Any, input: Tensor) -> Tensor | None:
    """Which values count, of the shape of the input; ``None`` where all do."""
    return None if mask is None else fits("mask", mask, input, kind="bool").expand_as(input)


def positive(name: str, value: Any, input: Tensor, mask: Tensor | None) -> Tensor:
    """A parameter above 0, as a tensor of the shape of the input.

    Args:
        name: what it is called.
        value: a tensor of that shape, or a number that is the same for all.
        input: the values it belongs to.
        mask: which of them count, of their shape.
    """
    if not isinstance(value, torch.Tensor):
        return torch.full_like(input, number(name, value, above=0))
    same_shape(input, tensor(name, value), ("input", name))
    within(name, value, above=0, where=mask)
    return value


def of_items(input: Any, target: Any, members: str) -> None:
    """A prediction that holds several numbers for each number of the target, on the last axis.

    Args:
        input: the prediction, (*, M) with M of at least 1.
        target: the target, (*).
        members: what the last axis holds, in words.
    """
    input, target = tensor("input", input), tensor("target", target)
    same_device(input, target, ("input", "target"))
    if input.ndim == 0 or input.shape[:-1] != target.shape or input.shape[-1] == 0:
        raise ValueError(
            f"`input` must have the shape of `target`, {list(target.shape)}, and a last axis for "
            f"the {members}, got {list(input.shape)}"
        )


# From here on seven terms of Stirling's series are exact to the rounding of float64.
_STIRLING_FROM = 8.0
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def log_gamma_growth(inverse: Tensor, step: Tensor | float) -> Tensor:
    r""":math:`\log\Gamma(z + s) - \log\Gamma(z) - s \log z` for s of at least 0, from 1 / z.

    It goes to 0 with 1 / z, where the difference of two logarithms of Gamma has no digit left.
    """
    large = inverse < 1 / _STIRLING_FROM
    near, far = torch.where(large, 1.0, inverse), torch.where(large, inverse, 0.0)
    direct = torch.lgamma(1 / near + step) - torch.lgamma(1 / near) + step * near.log()
    ratio = step * far
    series = step * _excess(ratio) - 0.5 * torch.log1p(ratio)
    series = series + _remainder(far / (1 + ratio)) - _remainder(far)
    return torch.where(large, series, direct)


def log1p_ratio(u: Tensor) -> Tensor:
    r""":math:`\log(1 + u) / u`, which at 0 is 1, and its derivatives."""
    return (1 + _excess(u)) / (1 + u)


def _excess(u: Tensor) -> Tensor:
    r""":math:`(1 + u) \log(1 + u) / u - 1`, which near 0 is :math:`u/2`."""
    small = u < 0.05
    near, far = torch.where(small, u, 0.0), torch.where(small, 1.0, u)
    series = torch.zeros_like(near)
    for k in range(10, 0, -1):  # the sum of (-1)^(k+1) u^k / (k (k + 1))
        series = near * ((-1) ** (k + 1) / (k * (k + 1)) + series)
    return torch.where(small, series, (1 + far) * torch.log1p(far) / far - 1)


def _remainder(inverse: Tensor) -> Tensor:
    """What Stirling's formula leaves of log Gamma(z), from 1 / z."""
    square = inverse.square()
    series = torch.zeros_like(inverse)
    for term in reversed(_STIRLING):
        series = series * square + term
    return series * inverse
