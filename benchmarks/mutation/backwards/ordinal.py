"""Cumulative-link ordinal regression: a score per sample and shared cut points, summed."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class OrdinalLoss(Function):
    @staticmethod
    def forward(ctx, score, cuts, level):
        ranks = torch.arange(cuts.shape[0])
        above = (level.unsqueeze(1) > ranks).to(score.dtype)
        ctx.save_for_backward(score, cuts, above)
        logits = score.unsqueeze(1) - cuts
        return functional.binary_cross_entropy_with_logits(logits, above, reduction="sum")

    @staticmethod
    def backward(ctx, grad_output):
        score, cuts, above = ctx.saved_tensors
        excess = torch.sigmoid(score.unsqueeze(1) - cuts) - above
        excess = grad_output * excess
        return excess.sum(dim=1), -excess.sum(dim=0), None


LOSS = OrdinalLoss


def reference(score, cuts, level):
    total = score.new_zeros(())
    for k, cut in enumerate(cuts):
        sign = torch.where(level > k, 1.0, -1.0).to(score.dtype)
        total = total + torch.log1p(torch.exp(-sign * (score - cut))).sum()
    return total


def inputs(seed):
    draw = Draw(seed)
    return (
        draw.normal(9, grad=True, scale=1.5),
        draw.normal(4, grad=True),
        draw.labels(9, classes=5),
    )
