"""Poisson negative log-likelihood of counts given log-rates, with Stirling's term, summed."""

import math

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class PoissonNLLLoss(Function):
    @staticmethod
    def forward(ctx, log_rate, counts, full):
        rate = torch.exp(log_rate)
        ctx.save_for_backward(log_rate, counts)
        ctx.full = full
        values = rate - counts * log_rate
        if full:
            stirling = counts * torch.log(counts) - counts + 0.5 * torch.log(2 * math.pi * counts)
            values = values + torch.where(counts > 1, stirling, torch.zeros_like(stirling))
        return values.sum()

    @staticmethod
    def backward(ctx, grad_output):
        log_rate, counts = ctx.saved_tensors
        grad_log_rate = torch.exp(log_rate) - counts
        grad_counts = -log_rate
        if ctx.full:
            slope = torch.log(counts) + 0.5 / counts
            grad_counts = grad_counts + torch.where(counts > 1, slope, torch.zeros_like(slope))
        return grad_output * grad_log_rate, grad_output * grad_counts, None


LOSS = PoissonNLLLoss


def reference(log_rate, counts, full):
    return functional.poisson_nll_loss(log_rate, counts, full=full, reduction="sum")


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(6, 5, grad=True), draw.uniform(6, 5, low=0.2, high=5.0, grad=True), True
