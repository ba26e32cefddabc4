"""Contrastive loss (Hadsell et al., 2006) on pairs, half the mean over the pairs."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class ContrastiveLoss(Function):
    @staticmethod
    def forward(ctx, first, second, same, margin):
        ctx.save_for_backward(first, second, same)
        ctx.margin = margin
        distance = torch.sqrt(((first - second) ** 2).sum(1) + 1e-6)
        short = torch.relu(margin - distance)
        return 0.5 * (same * distance**2 + (1 - same) * short**2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        first, second, same = ctx.saved_tensors
        gap = first - second
        distance = torch.sqrt((gap**2).sum(1, keepdim=True) + 1e-6)
        same = same.unsqueeze(1)
        short = torch.relu(ctx.margin - distance)
        grad = (same * gap - (1 - same) * short * gap / distance) / first.shape[0]
        grad = grad * grad_output
        return grad, -grad, None, None


LOSS = ContrastiveLoss


def reference(first, second, same, margin):
    distance = torch.hypot(torch.linalg.vector_norm(first - second, dim=1), first.new_tensor(1e-3))
    apart = torch.clamp(margin - distance, min=0.0).square()
    return torch.where(same > 0, distance.square(), apart).sum() / (2 * len(first))


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 3, grad=True), draw.normal(8, 3, grad=True), draw.flags(8), 3.0
