"""Smooth average precision (Brown et al., 2020) of one ranked list per row."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class SmoothAPLoss(Function):
    @staticmethod
    def forward(ctx, scores, relevant, temperature):
        ctx.save_for_backward(scores, relevant)
        ctx.temperature = temperature
        gap = (scores.unsqueeze(1) - scores.unsqueeze(2)) / temperature
        off_diagonal = 1.0 - torch.eye(scores.shape[1], dtype=scores.dtype)
        above = torch.sigmoid(gap) * off_diagonal
        rank = 1.0 + above.sum(dim=2)
        hits = 1.0 + (above * relevant.unsqueeze(1)).sum(dim=2)
        precision = (relevant * hits / rank).sum(dim=1) / relevant.sum(dim=1)
        return 1.0 - precision

    @staticmethod
    def backward(ctx, grad_output):
        scores, relevant = ctx.saved_tensors
        gap = (scores.unsqueeze(1) - scores.unsqueeze(2)) / ctx.temperature
        off_diagonal = 1.0 - torch.eye(scores.shape[1], dtype=scores.dtype)
        gate = torch.sigmoid(gap)
        above = gate * off_diagonal
        rank = 1.0 + above.sum(dim=2)
        hits = 1.0 + (above * relevant.unsqueeze(1)).sum(dim=2)
        share = -grad_output.unsqueeze(1) * relevant / relevant.sum(dim=1, keepdim=True)
        grad_hits = (share / rank).unsqueeze(2) * relevant.unsqueeze(1)
        grad_rank = (share * hits / rank**2).unsqueeze(2)
        grad_gap = (grad_hits - grad_rank) * above * (1.0 - gate) / ctx.temperature
        return grad_gap.sum(dim=1) - grad_gap.sum(dim=2), None, None


LOSS = SmoothAPLoss


def reference(scores, relevant, temperature):
    values = []
    for row, wanted in zip(scores, relevant, strict=True):
        precision = row.new_zeros(())
        for i in wanted.nonzero().flatten().tolist():
            beats = torch.sigmoid((row - row[i]) / temperature)
            others = torch.arange(len(row)) != i
            hits = 1 + (beats * wanted)[others].sum()
            precision = precision + hits / (1 + beats[others].sum())
        values.append(1 - precision / wanted.sum())
    return torch.stack(values)


def inputs(seed):
    draw = Draw(seed)
    relevant = draw.flags(4, 6)
    relevant[:, 0] = 1.0
    return draw.normal(4, 6, grad=True), relevant, 0.4
