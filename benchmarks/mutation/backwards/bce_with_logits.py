"""Binary cross entropy with logits and a positive-class weight, mean over all elements."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class BCEWithLogitsLoss(Function):
    @staticmethod
    def forward(ctx, logits, target, pos_weight):
        ctx.save_for_backward(logits, target, pos_weight)
        positive = pos_weight * target * functional.softplus(-logits)
        negative = (1 - target) * functional.softplus(logits)
        return (positive + negative).mean()

    @staticmethod
    def backward(ctx, grad_output):
        logits, target, pos_weight = ctx.saved_tensors
        probability = torch.sigmoid(logits)
        positive = pos_weight * target * (probability - 1)
        negative = (1 - target) * probability
        grad_logits = (positive + negative) / logits.numel()
        grad_target = pos_weight * functional.softplus(-logits) - functional.softplus(logits)
        grad_target = grad_target / logits.numel()
        return grad_output * grad_logits, grad_output * grad_target, None


LOSS = BCEWithLogitsLoss


def reference(logits, target, pos_weight):
    return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight)


def inputs(seed):
    draw = Draw(seed)
    target = draw.uniform(8, 4, low=0.05, high=0.95, grad=True)
    return draw.normal(8, 4, grad=True, scale=1.5), target, draw.uniform(4, low=0.5, high=3.0)
