"""Huber loss without a reduction: `grad_output` has the shape of the input."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class HuberLoss(Function):
    @staticmethod
    def forward(ctx, input, target, delta=1.0):
        residual = input - target
        size = residual.abs()
        ctx.save_for_backward(input, target)
        ctx.delta = delta
        quadratic = 0.5 * residual**2
        linear = delta * (size - 0.5 * delta)
        return torch.where(size <= delta, quadratic, linear)

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        delta = ctx.delta
        residual = input - target
        slope = torch.where(residual.abs() <= delta, residual, delta * residual.sign())
        grad_input = grad_output * slope
        return grad_input, -grad_input, None


LOSS = HuberLoss


def reference(input, target, delta=1.0):
    return functional.huber_loss(input, target, reduction="none", delta=delta)


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 5, grad=True, scale=1.5), draw.normal(8, 5, grad=True), 0.8
