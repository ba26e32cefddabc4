"""Squared Wasserstein-2 distance of one-dimensional samples: sort, pair, average per row."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class WassersteinLoss(Function):
    @staticmethod
    def forward(ctx, first, second):
        first_sorted, first_order = torch.sort(first, dim=-1)
        second_sorted, second_order = torch.sort(second, dim=-1)
        ctx.save_for_backward(first, second, first_order, second_order)
        return ((first_sorted - second_sorted) ** 2).mean(dim=-1)

    @staticmethod
    def backward(ctx, grad_output):
        first, second, first_order, second_order = ctx.saved_tensors
        gap = first.gather(-1, first_order) - second.gather(-1, second_order)
        grad_sorted = 2.0 * gap * grad_output.unsqueeze(-1) / gap.shape[-1]
        grad_first = torch.zeros_like(first).scatter(-1, first_order, grad_sorted)
        grad_second = torch.zeros_like(second).scatter(-1, second_order, -grad_sorted)
        return grad_first, grad_second


LOSS = WassersteinLoss


def reference(first, second):
    gap = first.sort(-1).values - second.sort(-1).values
    return gap.square().sum(-1) / gap.shape[-1]


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(5, 8, grad=True), draw.normal(5, 8, grad=True, scale=1.5)
