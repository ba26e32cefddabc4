"""Barlow Twins' redundancy reduction (Zbontar et al., 2021) on standardised embeddings."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from benchmarks.mutation.draw import Draw


class RedundancyLoss(Function):
    @staticmethod
    def forward(ctx, first, second, strength):
        batch, width = first.shape
        correlation = first.T @ second / batch
        eye = torch.eye(width, dtype=first.dtype)
        weight = eye + strength * (1 - eye)
        ctx.save_for_backward(first, second, correlation, weight, eye)
        return (weight * (correlation - eye) ** 2).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        first, second, correlation, weight, eye = ctx.saved_tensors
        grad_correlation = 2 * weight * (correlation - eye) * grad_output
        grad_correlation = grad_correlation / first.shape[0]
        return second @ grad_correlation.T, first @ grad_correlation, None


LOSS = RedundancyLoss


def reference(first, second, strength):
    correlation = torch.einsum("na,nb->ab", first, second) / len(first)
    on = (correlation.diagonal() - 1).square().sum()
    off = (correlation - torch.diag(correlation.diagonal())).square().sum()
    return on + strength * off


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 4, grad=True), draw.normal(8, 4, grad=True), 0.2
