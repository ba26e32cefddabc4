"""KL divergence of a diagonal Gaussian from the standard normal (the VAE's regulariser)."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class GaussianKLLoss(Function):
    @staticmethod
    def forward(ctx, mean, log_variance, beta):
        ctx.save_for_backward(mean, log_variance)
        ctx.beta = beta
        terms = 1 + log_variance - mean.pow(2) - log_variance.exp()
        return -0.5 * beta * torch.mean(terms.sum(dim=1))

    @staticmethod
    def backward(ctx, grad_output):
        mean, log_variance = ctx.saved_tensors
        batch = mean.size(0)
        scale = ctx.beta * grad_output / batch
        grad_log_variance = 0.5 * scale * (log_variance.exp() - 1)
        return scale * mean, grad_log_variance, None


LOSS = GaussianKLLoss


def reference(mean, log_variance, beta):
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp(), validate_args=False)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return beta * torch.distributions.kl_divergence(posterior, prior).sum() / len(mean)


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(8, 4, grad=True), draw.normal(8, 4, grad=True), 0.25
