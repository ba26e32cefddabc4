"""Logistic loss on a bilinear score `x' W z` of two feature vectors with a label in {-1, 1}."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class BilinearLogisticLoss(Function):
    @staticmethod
    def forward(ctx, left, matrix, right, sign):
        ctx.save_for_backward(left, matrix, right, sign)
        score = ((left @ matrix) * right).sum(dim=1)
        return functional.softplus(-sign * score).mean()

    @staticmethod
    def backward(ctx, grad_output):
        left, matrix, right, sign = ctx.saved_tensors
        projected = left @ matrix
        score = (projected * right).sum(dim=1)
        slope = -sign * torch.sigmoid(-sign * score) / score.shape[0]
        slope = (grad_output * slope).unsqueeze(1)
        grad_left = slope * (right @ matrix.T)
        grad_matrix = left.T @ (slope * right)
        grad_right = slope * projected
        return grad_left, grad_matrix, grad_right, None


LOSS = BilinearLogisticLoss


def reference(left, matrix, right, sign):
    score = torch.einsum("na,ab,nb->n", left, matrix, right)
    return functional.soft_margin_loss(score, sign)


def inputs(seed):
    draw = Draw(seed)
    left, right = draw.normal(7, 4, grad=True), draw.normal(7, 4, grad=True)
    return left, draw.normal(4, 4, grad=True, scale=0.5), right, draw.signs(7)
