"""Sigmoid focal loss (Lin et al., 2017) for 0/1 targets, one value per element."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class SigmoidFocalLoss(Function):
    @staticmethod
    def forward(ctx, logits, target, alpha, gamma):
        ctx.save_for_backward(logits, target)
        ctx.alpha, ctx.gamma = alpha, gamma
        sign = 2.0 * target - 1.0
        log_pt = functional.logsigmoid(sign * logits)
        weight = alpha * target + (1.0 - alpha) * (1.0 - target)
        return -weight * (1.0 - log_pt.exp()) ** gamma * log_pt

    @staticmethod
    def backward(ctx, grad_output):
        logits, target = ctx.saved_tensors
        alpha, gamma = ctx.alpha, ctx.gamma
        sign = 2.0 * target - 1.0
        pt = torch.sigmoid(sign * logits)
        log_pt = functional.logsigmoid(sign * logits)
        weight = alpha * target + (1.0 - alpha) * (1.0 - target)
        modulator = (1.0 - pt) ** gamma
        slope = modulator * (gamma * pt * log_pt - (1.0 - pt))
        return grad_output * weight * sign * slope, None, None, None


LOSS = SigmoidFocalLoss


def reference(logits, target, alpha, gamma):
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pt = torch.exp(-bce)
    weight = torch.where(target > 0.5, alpha, 1.0 - alpha).to(logits.dtype)
    return weight * (1.0 - pt).pow(gamma) * bce


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 4, grad=True, scale=1.5), draw.flags(8, 4), 0.25, 2.0
