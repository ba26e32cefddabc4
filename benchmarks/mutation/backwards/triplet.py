"""Triplet margin loss with Euclidean distances, mean over the triplets."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class TripletLoss(Function):
    @staticmethod
    def forward(ctx, anchor, positive, negative, margin):
        ctx.save_for_backward(anchor, positive, negative)
        ctx.margin = margin
        near = torch.sqrt((anchor - positive).pow(2).sum(dim=1) + 1e-12)
        far = torch.sqrt((anchor - negative).pow(2).sum(dim=1) + 1e-12)
        return torch.relu(near - far + margin).mean()

    @staticmethod
    def backward(ctx, grad_output):
        anchor, positive, negative = ctx.saved_tensors
        to_positive = anchor - positive
        to_negative = anchor - negative
        near = torch.sqrt(to_positive.pow(2).sum(dim=1, keepdim=True) + 1e-12)
        far = torch.sqrt(to_negative.pow(2).sum(dim=1, keepdim=True) + 1e-12)
        active = (near - far + ctx.margin > 0).to(anchor.dtype)
        scale = grad_output * active / anchor.shape[0]
        pull = scale * to_positive / near
        push = scale * to_negative / far
        return pull - push, -pull, push, None


LOSS = TripletLoss


def reference(anchor, positive, negative, margin):
    near = torch.linalg.vector_norm(anchor - positive, dim=1)
    far = torch.linalg.vector_norm(anchor - negative, dim=1)
    return functional.margin_ranking_loss(far, near, torch.ones_like(near), margin=margin)


def inputs(seed):
    draw = Draw(seed)
    return *(draw.normal(7, 5, grad=True) for _ in range(3)), 0.6
