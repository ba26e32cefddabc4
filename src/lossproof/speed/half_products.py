"""Products of matrices in half precision, of a gradient of which no entry is to be lost.

The smallest number of float16 is 6e-8, and a softmax over a large vocabulary has many that are
smaller. So a gradient is enlarged by a power of two before it is rounded, as far as no entry of the
product can overflow, and the product is made small again in float32.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor
LARGEST = 32768.0
"""What a product in float16 may reach: half of what it can hold."""
BLOCK = 1 << 24
"""Bytes of a product that is held besides the sum it is added to."""


def add_product(into: Tensor, slope: Tensor, features: Tensor) -> None:
    """Add ``slope.T @ features`` to the gradient of a weight.

    Args:
        into: (C, H), at least float32.
        slope: (N, C), at least float32.
        features: (N, H), in the precision that the layer computes in.
    """
    if into.dtype == slope.dtype == features.dtype:
        into.addmm_(slope.t(), features)
        return
    if features.dtype is torch.float16 and features.device.type == "cpu":
        # As fast there, and nothing is rounded that is then added to something else.
        into.addmm_(slope.t(), features.to(into.dtype))
        return
    classes = max(1, BLOCK // max(1, into.shape[1] * 4))
    scale = None
    if features.dtype is torch.float16:
        bound = _bound(slope, features, over=0)
        scale = fitting_scale(bound, LARGEST)
        slope = slope * scale
    slope = slope.to(features.dtype)
    for first in range(0, into.shape[0], classes):
        product = slope[:, first : first + classes].t() @ features
        if scale is not None:
            product = product.to(into.dtype) / scale
        into[first : first + classes].add_(product)


def times(slope: Tensor, weight: Tensor) -> Tensor:
    """``slope @ weight``: the gradient in the features, (N, H), at least float32.

    Args:
        slope: (N, C), at least float32.
        weight: (C, H), in the precision that the layer computes in.
    """
    if weight.dtype is not torch.float16:
        return (slope.to(weight.dtype) @ weight).to(slope.dtype)
    bound = _bound(slope, weight, over=1)
    scale = fitting_scale(bound, LARGEST)
    return ((slope * scale).to(weight.dtype) @ weight).to(slope.dtype) / scale


def _bound(slope: Tensor, other: Tensor, *, over: int) -> Tensor:
    """What no entry of the product can exceed, nor any of the slope itself."""
    slope = slope.abs()
    return torch.maximum(slope.sum(over).amax() * other.abs().amax().to(slope.dtype), slope.amax())


def fitting_scale(bound: Tensor, largest: float) -> Tensor:
    """The power of two that brings a bound to the largest number, or near it; 1 for 0 and NaN."""
    exponent = torch.log2(largest / bound.float()).floor().clamp(-60.0, 60.0)
    return torch.where(torch.isfinite(bound) & (bound > 0), torch.exp2(exponent), 1.0)
