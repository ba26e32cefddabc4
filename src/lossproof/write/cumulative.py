"""Sums of exponentials over all that follows, as a likelihood of an order needs them."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def log_sum_following(scores: Tensor) -> Tensor:
    r"""The logarithm of :math:`\sum_{j \geq i} \exp s_j`, along the last axis.

    In float64: it is compared with single scores, and the difference of two large float32 numbers
    would be noise. (Apple's devices have no float64; there the dtype stays.)

    Example:
        >>> import torch
        >>> from lossproof.write.cumulative import log_sum_following
        >>> log_sum_following(torch.tensor([0.0, 1e4, 1e4]))
        tensor([10000.6931, 10000.6931, 10000.0000], dtype=torch.float64)
    """
    wide = scores if scores.device.type == "mps" else scores.double()
    return wide.flip(-1).logcumsumexp(-1).flip(-1)
