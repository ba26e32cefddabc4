"""Cosine embedding loss: pull pairs labelled 1 together, push pairs labelled -1 apart."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from benchmarks.mutation.draw import Draw


class CosineEmbeddingLoss(Function):
    @staticmethod
    def forward(ctx, first, second, label, margin):
        first_norm = (first.pow(2).sum(dim=1, keepdim=True) + 1e-6).sqrt()
        second_norm = (second.pow(2).sum(dim=1, keepdim=True) + 1e-6).sqrt()
        first_unit = first / first_norm
        second_unit = second / second_norm
        cosine = (first_unit * second_unit).sum(dim=1)
        ctx.save_for_backward(first_unit, second_unit, first_norm, second_norm, cosine, label)
        ctx.margin = margin
        return torch.where(label > 0, 1.0 - cosine, torch.relu(cosine - margin))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        first_unit, second_unit, first_norm, second_norm, cosine, label = ctx.saved_tensors
        apart = (cosine > ctx.margin).to(cosine.dtype)
        slope = torch.where(label > 0, -torch.ones_like(cosine), apart)
        slope = (grad_output * slope).unsqueeze(1)
        cosine = cosine.unsqueeze(1)
        grad_first = slope * (second_unit - cosine * first_unit) / first_norm
        grad_second = slope * (first_unit - cosine * second_unit) / second_norm
        return grad_first, grad_second, None, None


LOSS = CosineEmbeddingLoss


def reference(first, second, label, margin):
    squares = (torch.einsum("nd,nd->n", x, x) + 1e-6 for x in (first, second))
    cosine = torch.einsum("nd,nd->n", first, second)
    for square in squares:
        cosine = cosine * torch.rsqrt(square)
    attract = (1 + label) / 2 * (1 - cosine)
    return attract + (1 - label) / 2 * torch.clamp(cosine - margin, min=0)


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 4, grad=True), draw.normal(8, 4, grad=True), draw.signs(8), 0.1
