"""Which values a tensor may hold, read off the values it was given.

A loss on probabilities must not be blamed for what it does at -3. Nothing says in the signature
that an input is a probability, a rotation or a label in {-1, 1}, but its values do.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

import torch

Tensor = torch.Tensor


class Kind(Enum):
    """The kinds of values that a loss can be told apart by."""

    REAL = "any numbers"
    POSITIVE = "positive numbers"
    NONNEGATIVE = "numbers of at least 0"
    NEGATIVE = "numbers of at most 0"
    UNIT = "numbers in [0, 1]"
    BINARY = "zeros and ones"
    SIGN = "-1 and 1"
    INTEGER = "whole numbers"
    PROBABILITY = "probabilities that sum to 1"
    LOG_PROBABILITY = "log-probabilities"
    UNIT_NORM = "vectors of length 1"
    ROTATION = "rotation matrices"


@dataclass(frozen=True)
class Domain:
    """The set that a tensor's values come from.

    Borders belong to it: p = 0 and p = 1 are probabilities, because a float32 sigmoid gives
    exactly 1 from about 17 on.
    """

    kind: Kind
    axis: int | None = None
    """The axis along which probabilities sum to 1 or vectors have length 1."""

    def contains(self, values: Tensor) -> bool:
        """Whether all values lie in the domain (up to rounding)."""
        values = values.detach().double()
        if not bool(torch.isfinite(values).all()):
            return False
        return _TESTS[self.kind](values, self.axis)

    @property
    def is_free(self) -> bool:
        """Whether each element may take values of its own."""
        return self.axis is None and self.kind is not Kind.ROTATION


ROUNDING = 4e-3
"""Sums to 1 are read with this slack, which half precision needs."""


def _sums_to_one(values: Tensor, axis: int | None) -> bool:
    assert axis is not None
    total = values.sum(axis)
    return bool((values >= 0).all()) and bool(((total - 1).abs() < ROUNDING).all())


def _log_sums_to_one(values: Tensor, axis: int | None) -> bool:
    assert axis is not None
    total = torch.logsumexp(values, axis)
    return bool((values <= ROUNDING).all()) and bool((total.abs() < ROUNDING).all())


def _has_unit_norm(values: Tensor, axis: int | None) -> bool:
    assert axis is not None
    return bool(((torch.linalg.vector_norm(values, dim=axis) - 1).abs() < ROUNDING).all())


def _is_rotation(values: Tensor, axis: int | None) -> bool:
    if values.dim() < 2 or values.shape[-1] != values.shape[-2] or values.shape[-1] < 2:
        return False
    product = values @ values.transpose(-1, -2)
    return bool(((product - torch.eye(values.shape[-1], dtype=values.dtype)).abs() < 1e-2).all())


_TESTS = {
    Kind.REAL: lambda values, axis: True,
    Kind.POSITIVE: lambda values, axis: bool((values > 0).all()),
    Kind.NONNEGATIVE: lambda values, axis: bool((values >= 0).all()),
    Kind.NEGATIVE: lambda values, axis: bool((values <= 0).all()),
    Kind.UNIT: lambda values, axis: bool(((values >= 0) & (values <= 1)).all()),
    Kind.BINARY: lambda values, axis: bool(((values == 0) | (values == 1)).all()),
    Kind.SIGN: lambda values, axis: bool((values.abs() == 1).all()),
    Kind.INTEGER: lambda values, axis: bool((values == values.round()).all()),
    Kind.PROBABILITY: _sums_to_one,
    Kind.LOG_PROBABILITY: _log_sums_to_one,
    Kind.UNIT_NORM: _has_unit_norm,
    Kind.ROTATION: _is_rotation,
}

# From narrow to wide.
_FREE = (
    Kind.BINARY, Kind.SIGN, Kind.INTEGER, Kind.UNIT, Kind.POSITIVE, Kind.NONNEGATIVE, Kind.NEGATIVE,
)  # fmt: skip


# What people call numbers that are positive by their meaning: zero is no value of a variance.
_POSITIVE_NAME = re.compile(
    r"(^|_)(var|vars|variance\w*|sigmas?|std\w*|scales?|temp|temperature|tau|rates?|conc\w*|"
    r"precision|alphas?|betas?|kappa|theta|lam|lambda\w*|depths?|disparity|bandwidth|width|"
    r"radius|shape|dispersion|b)$",
    re.I,
)


def domain_of(tensor: Tensor, name: str = "", *, smooth: bool = False) -> Domain:
    """The narrowest domain that holds a tensor's values.

    Args:
        tensor: the values, as they were given.
        name: what the argument is called, which tells a variance from a probability.
        smooth: whether the values are to vary continuously: those of a prediction that happens to
            hold whole numbers do.
    """
    values = tensor.detach()
    if values.numel() == 0 or values.is_complex():
        return Domain(Kind.REAL)
    values = values.double()
    if values.dim() >= 2 and Domain(Kind.ROTATION).contains(values):
        return Domain(Kind.ROTATION)
    coupled = (Kind.PROBABILITY, Kind.LOG_PROBABILITY, Kind.UNIT_NORM)
    for kind in coupled:
        for axis in _class_axes(values):
            if Domain(kind, axis).contains(values) and not _is_pattern(values, kind):
                return Domain(kind, axis)
    discrete = (Kind.BINARY, Kind.SIGN, Kind.INTEGER)
    if _POSITIVE_NAME.search(name) and Domain(Kind.POSITIVE).contains(values):
        return Domain(Kind.POSITIVE)
    for kind in _FREE:
        if not (smooth and kind in discrete) and Domain(kind).contains(values):
            return Domain(kind)
    return Domain(Kind.REAL)


def _class_axes(values: Tensor) -> list[int]:
    """The axes that classes or coordinates may lie along: the second, the last, then others."""
    order = dict.fromkeys([min(1, values.dim() - 1), values.dim() - 1, *range(1, values.dim())])
    return [axis for axis in order if axis >= 0 and values.shape[axis] > 1]


def _is_pattern(values: Tensor, kind: Kind) -> bool:
    """Whether the values are labels that only look coupled: one-hot rows have length 1, too."""
    return kind is Kind.UNIT_NORM and bool((values == values.round()).all())


def largest(tensor: Tensor) -> float:
    """The largest absolute value; 1 for a tensor of zeros, so that it can be divided by."""
    if tensor.numel() == 0:
        return 1.0
    size = float(tensor.detach().abs().max())
    return size if size > 0 and math.isfinite(size) else 1.0
