"""Soft Dice loss on sigmoid probabilities, per class and averaged over the classes."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class DiceLoss(Function):
    @staticmethod
    def forward(ctx, logits, target, smooth):
        ctx.save_for_backward(logits, target)
        ctx.smooth = smooth
        probability = torch.sigmoid(logits)
        overlap = (probability * target).sum(dim=0)
        size = probability.sum(dim=0) + target.sum(dim=0)
        return (1.0 - (2.0 * overlap + smooth) / (size + smooth)).mean()

    @staticmethod
    def backward(ctx, grad_output):
        logits, target = ctx.saved_tensors
        probability = torch.sigmoid(logits)
        numerator = 2.0 * (probability * target).sum(dim=0) + ctx.smooth
        denominator = probability.sum(dim=0) + target.sum(dim=0) + ctx.smooth
        grad = numerator / denominator**2 - 2.0 * target / denominator
        grad = grad * probability * (1.0 - probability)
        return grad_output * grad / logits.shape[1], None, None


LOSS = DiceLoss


def reference(logits, target, smooth):
    probability = 1.0 / (1.0 + torch.exp(-logits))
    total = logits.new_zeros(())
    for p, t in zip(probability.T, target.T, strict=True):
        total = total + 1.0 - (2.0 * torch.dot(p, t) + smooth) / (p.sum() + t.sum() + smooth)
    return total / logits.shape[1]


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(12, 3, grad=True), draw.flags(12, 3), 1.0
