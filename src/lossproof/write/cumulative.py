"""Sums of exponentials over all that follows, as the likelihood of an order needs them.

``torch.logcumsumexp`` takes the logarithm of the gradient that it is given, and has no second
derivative where this is 0; its forward mode overflows. Here every derivative is a sum of the same
stable kind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function

from lossproof.write.arguments import visible

Tensor = torch.Tensor

NEAR = 600.0
"""Numbers no farther apart can be added as exponentials in float64, without logarithms of sums."""


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
    if torch.compiler.is_compiling():  # a compiled graph is differentiated once
        return wide.flip(-1).logcumsumexp(-1).flip(-1)
    result: Tensor = _LogSumFollowing.apply(wide)  # type: ignore[no-untyped-call]
    return result


def _near(x: Tensor) -> bool:
    """Whether the numbers of each row are, as they nearly always are; looked at on a CPU only."""
    if not visible(x) or not x.numel():
        return False
    lowest, highest = x.aminmax(dim=-1)
    return bool((highest - lowest <= NEAR).all())  # false for NaN and for infinite numbers


class _LogSumFollowing(Function):
    """y_i = log of the sum of exp x_j over all j from i on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        if not _near(x):
            return x.flip(-1).logcumsumexp(-1).flip(-1)
        top = x.amax(-1, keepdim=True)
        return (x - top).exp().flip(-1).cumsum(-1).flip(-1).log() + top

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, y = ctx.saved_tensors
        return torch.exp(x - y) * _carried(grad, y)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        x, y = ctx.saved_tensors
        return _carried_back(tangent * torch.exp(x - y), y)


def _carried(values: Tensor, level: Tensor) -> Tensor:
    """The sums of v_i exp(y_k - y_i) over all i up to k, for a level y that never rises."""
    result: Tensor = _Carried.apply(values, level)  # type: ignore[no-untyped-call]
    return result


def _carried_back(values: Tensor, level: Tensor) -> Tensor:
    """The transpose: the sums of v_k exp(y_k - y_i) over all k from i on."""
    return _carried(values.flip(-1), -level.flip(-1)).flip(-1)


class _Carried(Function):
    """Linear in the values, so that its derivatives are sums of its own kind."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, level: Tensor) -> Tensor:
        if _near(level):
            scale = (level[..., :1] - level).exp()
            return (values * scale).cumsum(-1) / scale
        parts = [
            (torch.logcumsumexp(part.relu().log() - level, -1) + level).exp()
            for part in (values, -values)
        ]
        return parts[0] - parts[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        values, level, output = ctx.saved_tensors
        back = _carried_back(grad, level)
        return back, grad * output - values * back

    @staticmethod
    def jvp(ctx: Any, values_tangent: Tensor, level_tangent: Tensor) -> Tensor:
        values, level, output = ctx.saved_tensors
        moved = _carried(values_tangent - values * level_tangent, level)
        tangent: Tensor = moved + output * level_tangent
        return tangent
