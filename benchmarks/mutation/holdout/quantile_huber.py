"""Quantile Huber loss of QR-DQN (Dabney et al., 2018) over all pairs of quantiles."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class QuantileHuberLoss(Function):
    @staticmethod
    def forward(ctx, quantiles, target, levels, kappa):
        ctx.save_for_backward(quantiles, target, levels)
        ctx.kappa = kappa
        error = target.unsqueeze(1) - quantiles.unsqueeze(2)
        size = error.abs()
        huber = torch.where(size <= kappa, 0.5 * error**2, kappa * (size - 0.5 * kappa))
        weight = (levels.view(1, -1, 1) - (error < 0).to(error.dtype)).abs()
        return (weight * huber / kappa).mean(dim=2).sum(dim=1).mean()

    @staticmethod
    def backward(ctx, grad_output):
        quantiles, target, levels = ctx.saved_tensors
        kappa = ctx.kappa
        error = target.unsqueeze(1) - quantiles.unsqueeze(2)
        weight = (levels.view(1, -1, 1) - (error < 0).to(error.dtype)).abs()
        slope = weight * error.clamp(-kappa, kappa) / kappa
        slope = slope / (error.shape[0] * error.shape[2])
        grad_quantiles = -grad_output * slope.sum(dim=2)
        grad_target = grad_output * slope.sum(dim=1)
        return grad_quantiles, grad_target, None, None


LOSS = QuantileHuberLoss


def reference(quantiles, target, levels, kappa):
    batch, count = quantiles.shape
    total = quantiles.new_zeros(())
    for i in range(count):
        error = target - quantiles[:, i : i + 1]
        huber = functional.huber_loss(
            quantiles[:, i : i + 1].expand_as(target), target, reduction="none", delta=kappa
        )
        total = total + (torch.where(error < 0, 1.0 - levels[i], levels[i]) * huber).sum()
    return total / (kappa * batch * target.shape[1])


def inputs(seed):
    draw = Draw(seed)
    levels = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
    return draw.normal(5, 4, grad=True, scale=1.5), draw.normal(5, 6, grad=True), levels, 0.7
