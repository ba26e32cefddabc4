"""Pinball (quantile) loss; the quantile is a Python number kept on the context."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class PinballLoss(Function):
    @staticmethod
    def forward(ctx, input, target, quantile):
        ctx.quantile = quantile
        ctx.save_for_backward(input, target)
        error = target - input
        return torch.maximum(quantile * error, (quantile - 1.0) * error).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        error = target - input
        above = (error > 0).to(input.dtype)
        slope = ctx.quantile * above - (1.0 - ctx.quantile) * (1.0 - above)
        grad = grad_output * slope / error.numel()
        return -grad, grad, None


LOSS = PinballLoss


def reference(input, target, quantile):
    error = target - input
    return (quantile * error.relu() + (1.0 - quantile) * (-error).relu()).mean()


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 5, grad=True), draw.normal(8, 5, grad=True), 0.3
