"""Cross entropy with soft targets and label smoothing; a gradient for the targets too."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class SoftCrossEntropyLoss(Function):
    @staticmethod
    def forward(ctx, logits, target, smoothing):
        classes = logits.shape[-1]
        smooth = target * (1.0 - smoothing) + smoothing / classes
        log_probability = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
        ctx.save_for_backward(log_probability, smooth)
        ctx.smoothing = smoothing
        return -(smooth * log_probability).sum(dim=-1).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        log_probability, smooth = ctx.saved_tensors
        batch = log_probability.shape[0]
        mass = smooth.sum(dim=-1, keepdim=True)
        grad_logits = (mass * log_probability.exp() - smooth) / batch
        grad_target = -(1.0 - ctx.smoothing) * log_probability / batch
        return grad_output * grad_logits, grad_output * grad_target, None


LOSS = SoftCrossEntropyLoss


def reference(logits, target, smoothing):
    return functional.cross_entropy(logits, target, label_smoothing=smoothing)


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 5, grad=True), draw.simplex(8, 5, grad=True), 0.1
