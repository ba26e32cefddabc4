"""Gaussian negative log-likelihood with a predicted log-variance; three gradients."""

import math

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class GaussianNLLLoss(Function):
    @staticmethod
    def forward(ctx, mean, target, log_variance):
        ctx.save_for_backward(mean, target, log_variance)
        precision = torch.exp(-log_variance)
        squared = (mean - target) ** 2
        values = 0.5 * (log_variance + squared * precision + math.log(2.0 * math.pi))
        return values.mean()

    @staticmethod
    def backward(ctx, grad_output):
        mean, target, log_variance = ctx.saved_tensors
        precision = torch.exp(-log_variance)
        residual = mean - target
        scale = grad_output / residual.numel()
        grad_mean = scale * residual * precision
        grad_log_variance = 0.5 * scale * (1.0 - residual**2 * precision)
        return grad_mean, -grad_mean, grad_log_variance


LOSS = GaussianNLLLoss


def reference(mean, target, log_variance):
    normal = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance), validate_args=False)
    return -normal.log_prob(target).mean()


def inputs(seed):
    draw = Draw(seed)
    return tuple(draw.normal(6, 5, grad=True) for _ in range(3))
