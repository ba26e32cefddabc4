"""Center loss (Wen et al., 2016): features pulled to their class centres, which learn too."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from benchmarks.mutation.draw import Draw


class CenterLoss(Function):
    @staticmethod
    def forward(ctx, features, centers, labels):
        offset = features - centers[labels]
        ctx.save_for_backward(offset, labels)
        ctx.classes = centers.shape[0]
        return 0.5 * (offset**2).sum() / features.shape[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        offset, labels = ctx.saved_tensors
        grad_features = grad_output * offset / offset.shape[0]
        grad_centers = torch.zeros(ctx.classes, offset.shape[1], dtype=offset.dtype)
        grad_centers.index_add_(0, labels, -grad_features)
        return grad_features, grad_centers, None


LOSS = CenterLoss


def reference(features, centers, labels):
    one_hot = torch.nn.functional.one_hot(labels, len(centers)).to(features.dtype)
    return (features - one_hot @ centers).square().sum(1).mean() / 2


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(9, 4, grad=True), draw.normal(3, 4, grad=True), draw.labels(9, classes=3)
