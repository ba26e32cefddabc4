"""InfoNCE over a batch of pairs, both directions averaged (as CLIP trains)."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class InfoNCELoss(Function):
    @staticmethod
    def forward(ctx, query, key, temperature):
        logits = query @ key.T / temperature
        rows = torch.logsumexp(logits, dim=1)
        columns = torch.logsumexp(logits, dim=0)
        ctx.save_for_backward(query, key, logits, rows, columns)
        ctx.temperature = temperature
        return (0.5 * (rows + columns) - logits.diagonal()).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        query, key, logits, rows, columns = ctx.saved_tensors
        count = logits.shape[0]
        by_row = torch.exp(logits - rows.unsqueeze(1))
        by_column = torch.exp(logits - columns.unsqueeze(0))
        eye = torch.eye(count, dtype=logits.dtype)
        grad_logits = (0.5 * (by_row + by_column) - eye) / count
        grad_logits = grad_output * grad_logits / ctx.temperature
        return grad_logits @ key, grad_logits.T @ query, None


LOSS = InfoNCELoss


def reference(query, key, temperature):
    logits = torch.einsum("id,jd->ij", query, key) / temperature
    target = torch.arange(len(query))
    forwards = functional.cross_entropy(logits, target)
    return (forwards + functional.cross_entropy(logits.T, target)) / 2


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(6, 4, grad=True), draw.normal(6, 4, grad=True), 0.7
