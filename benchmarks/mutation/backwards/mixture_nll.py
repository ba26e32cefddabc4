"""Negative log-likelihood of a one-dimensional Gaussian mixture, one value per sample."""

import math

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class MixtureNLLLoss(Function):
    @staticmethod
    def forward(ctx, logits, means, raw_scales, target):
        ctx.save_for_backward(logits, means, raw_scales, target)
        scales = functional.softplus(raw_scales) + 0.05
        standard = (target.unsqueeze(1) - means) / scales
        log_density = -0.5 * standard**2 - torch.log(scales) - 0.5 * math.log(2.0 * math.pi)
        log_weights = torch.log_softmax(logits, dim=1)
        return -torch.logsumexp(log_weights + log_density, dim=1)

    @staticmethod
    def backward(ctx, grad_output):
        logits, means, raw_scales, target = ctx.saved_tensors
        scales = functional.softplus(raw_scales) + 0.05
        standard = (target.unsqueeze(1) - means) / scales
        joint = torch.log_softmax(logits, dim=1) - 0.5 * standard**2 - torch.log(scales)
        responsibility = grad_output.unsqueeze(1) * torch.softmax(joint, dim=1)
        grad_logits = grad_output.unsqueeze(1) * torch.softmax(logits, dim=1) - responsibility
        grad_means = -responsibility * standard / scales
        grad_scales = responsibility * (1.0 - standard**2) / scales
        grad_raw_scales = grad_scales * torch.sigmoid(raw_scales)
        return grad_logits, grad_means, grad_raw_scales, -grad_means.sum(dim=1)


LOSS = MixtureNLLLoss


def reference(logits, means, raw_scales, target):
    scales = torch.log1p(torch.exp(raw_scales)) + 0.05
    weights = torch.distributions.Categorical(logits=logits, validate_args=False)
    parts = torch.distributions.Normal(means, scales, validate_args=False)
    mixture = torch.distributions.MixtureSameFamily(weights, parts, validate_args=False)
    return -mixture.log_prob(target)


def inputs(seed):
    draw = Draw(seed)
    parts = (draw.normal(7, 4, grad=True) for _ in range(3))
    return *parts, draw.normal(7, grad=True)
