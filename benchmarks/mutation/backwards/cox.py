"""Cox partial likelihood (Breslow) of log-risks sorted by falling survival time."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class CoxLoss(Function):
    @staticmethod
    def forward(ctx, log_risk, event):
        at_risk = torch.logcumsumexp(log_risk, dim=0)
        ctx.save_for_backward(log_risk, event)
        return -(event * (log_risk - at_risk)).sum() / event.sum()

    @staticmethod
    def backward(ctx, grad_output):
        log_risk, event = ctx.saved_tensors
        at_risk = torch.logcumsumexp(log_risk, dim=0)
        gap = log_risk.unsqueeze(1) - at_risk.unsqueeze(0)
        at_risk_then = torch.ones_like(gap).triu() > 0
        share = torch.where(at_risk_then, gap, -torch.inf).exp()
        grad = (share @ event - event) / event.sum()
        return grad_output * grad, None


LOSS = CoxLoss


def reference(log_risk, event):
    total = log_risk.new_zeros(())
    for i in event.nonzero().flatten().tolist():
        total = total + torch.logsumexp(log_risk[: i + 1], dim=0) - log_risk[i]
    return total / event.sum()


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(12, grad=True), draw.flags(12)
