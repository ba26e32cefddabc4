"""Squared multi-class hinge (Crammer and Singer's margin, all violators), mean over rows."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class MulticlassHingeLoss(Function):
    @staticmethod
    def forward(ctx, scores, target, margin):
        index = target.unsqueeze(1)
        right = scores.gather(1, index)
        violation = torch.clamp(margin + scores - right, min=0.0)
        violation = violation.scatter(1, index, 0.0)
        ctx.save_for_backward(scores, index)
        ctx.margin = margin
        return (violation**2).sum(dim=1).mean() / scores.shape[1]

    @staticmethod
    def backward(ctx, grad_output):
        scores, index = ctx.saved_tensors
        right = scores.gather(1, index)
        violation = torch.clamp(ctx.margin + scores - right, min=0.0)
        violation = violation.scatter(1, index, 0.0)
        grad = 2.0 * violation / (scores.shape[0] * scores.shape[1])
        grad = grad - torch.zeros_like(grad).scatter(1, index, grad.sum(dim=1, keepdim=True))
        return grad_output * grad, None, None


LOSS = MulticlassHingeLoss


def reference(scores, target, margin):
    total = scores.new_zeros(())
    for row, right in zip(scores, target.tolist(), strict=True):
        others = torch.arange(len(row)) != right
        total = total + functional.relu(margin - row[right] + row[others]).square().sum()
    return total / scores.numel()


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(9, 5, grad=True), draw.labels(9, classes=5), 0.8
