"""Matrix factorisation: squared error on the observed entries plus a ridge on both factors."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from benchmarks.mutation.draw import Draw


class FactorisationLoss(Function):
    @staticmethod
    def forward(ctx, users, items, ratings, observed, ridge):
        residual = observed * (users @ items.T - ratings)
        ctx.save_for_backward(users, items, residual)
        ctx.ridge = ridge
        fit = 0.5 * (residual**2).sum()
        return fit + 0.5 * ridge * (users.pow(2).sum() + items.pow(2).sum())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        users, items, residual = ctx.saved_tensors
        grad_users = residual @ items + ctx.ridge * users
        grad_items = residual.T @ users + ctx.ridge * items
        return grad_output * grad_users, grad_output * grad_items, None, None, None


LOSS = FactorisationLoss


def reference(users, items, ratings, observed, ridge):
    predicted = torch.einsum("uk,ik->ui", users, items)
    fit = (observed * (predicted - ratings).square()).sum()
    return (fit + ridge * (users.norm() ** 2 + items.norm() ** 2)) / 2


def inputs(seed):
    draw = Draw(seed)
    factors = draw.normal(6, 3, grad=True), draw.normal(5, 3, grad=True)
    return *factors, draw.normal(6, 5, scale=2.0), draw.flags(6, 5), 0.3
