"""Pairwise hinge ranking over all ordered pairs of a list, weighted by the relevance gap."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class RankingHingeLoss(Function):
    @staticmethod
    def forward(scores, relevance, margin):
        gap = scores.unsqueeze(1) - scores.unsqueeze(0)
        gain = (relevance.unsqueeze(1) - relevance.unsqueeze(0)).clamp(min=0.0)
        return (gain * functional.relu(margin - gap)).sum() / gain.sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        scores, relevance, margin = inputs
        ctx.save_for_backward(scores, relevance)
        ctx.margin = margin

    @staticmethod
    def backward(ctx, grad_output):
        scores, relevance = ctx.saved_tensors
        gap = scores.unsqueeze(1) - scores.unsqueeze(0)
        gain = (relevance.unsqueeze(1) - relevance.unsqueeze(0)).clamp(min=0.0)
        slope = -gain * (gap < ctx.margin).to(gap.dtype) / gain.sum()
        grad_scores = slope.sum(dim=1) - slope.sum(dim=0)
        return grad_output * grad_scores, None, None


LOSS = RankingHingeLoss


def reference(scores, relevance, margin):
    total, norm = scores.new_zeros(()), 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            gain = max(float(relevance[i] - relevance[j]), 0.0)
            total = total + gain * torch.clamp(margin - (scores[i] - scores[j]), min=0.0)
            norm += gain
    return total / norm


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(9, grad=True), draw.labels(9, classes=4).double(), 0.7
