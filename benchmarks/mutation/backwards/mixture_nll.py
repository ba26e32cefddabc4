"""Negative log-likelihood of a one-dimensional Gaussian mixture, one value per sample."""

import math

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class MixtureNLLLoss(Function):
    @staticmethod
    def forward(ctx, logits, means, log_scales, target):
        ctx.save_for_backward(logits, means, log_scales, target)
        standard = (target.unsqueeze(1) - means) * torch.exp(-log_scales)
        log_density = -0.5 * standard**2 - log_scales - 0.5 * math.log(2.0 * math.pi)
        log_weights = torch.log_softmax(logits, dim=1)
        return -torch.logsumexp(log_weights + log_density, dim=1)

    @staticmethod
    def backward(ctx, grad_output):
        logits, means, log_scales, target = ctx.saved_tensors
        inverse = torch.exp(-log_scales)
        standard = (target.unsqueeze(1) - means) * inverse
        joint = torch.log_softmax(logits, dim=1) - 0.5 * standard**2 - log_scales
        responsibility = torch.softmax(joint, dim=1)
        outer = grad_output.unsqueeze(1)
        grad_logits = outer * (torch.softmax(logits, dim=1) - responsibility)
        grad_means = -outer * responsibility * standard * inverse
        grad_log_scales = outer * responsibility * (1.0 - standard**2)
        return grad_logits, grad_means, grad_log_scales, -grad_means.sum(dim=1)


LOSS = MixtureNLLLoss


def reference(logits, means, log_scales, target):
    weights = torch.distributions.Categorical(logits=logits, validate_args=False)
    parts = torch.distributions.Normal(means, log_scales.exp(), validate_args=False)
    mixture = torch.distributions.MixtureSameFamily(weights, parts, validate_args=False)
    return -mixture.log_prob(target)


def inputs(seed):
    draw = Draw(seed)
    parts = (draw.normal(7, 4, grad=True) for _ in range(3))
    return *parts, draw.normal(7, grad=True)
