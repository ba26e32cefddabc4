"""Wing loss (Feng et al., 2018), one value per row."""

import math

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from benchmarks.mutation.draw import Draw


class WingLoss(Function):
    @staticmethod
    def forward(ctx, input, target, omega, epsilon):
        residual = input - target
        size = residual.abs()
        offset = omega - omega * math.log(1.0 + omega / epsilon)
        curved = omega * torch.log(1.0 + size / epsilon)
        ctx.save_for_backward(residual, size)
        ctx.options = (omega, epsilon)
        return torch.where(size < omega, curved, size - offset).sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        residual, size = ctx.saved_tensors
        omega, epsilon = ctx.options
        sign = torch.sign(residual)
        slope = torch.where(size < omega, omega * sign / (epsilon + size), sign)
        grad_input = slope * grad_output.unsqueeze(-1)
        return grad_input, -grad_input, None, None


LOSS = WingLoss


def reference(input, target, omega, epsilon):
    size = (input - target).abs()
    inside = omega * torch.log1p(size / epsilon)
    outside = size - omega * (1.0 - math.log1p(omega / epsilon))
    mask = (size < omega).to(size.dtype)
    return (mask * inside + (1.0 - mask) * outside).sum(-1)


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(7, 6, grad=True), draw.normal(7, 6, grad=True), 1.0, 0.6
