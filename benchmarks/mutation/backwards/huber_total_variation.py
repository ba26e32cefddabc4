"""Image denoising: a squared data term and a Huber penalty on neighbouring differences."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class HuberTotalVariationLoss(Function):
    @staticmethod
    def forward(ctx, image, noisy, strength, delta):
        ctx.save_for_backward(image, noisy)
        ctx.strength = strength
        ctx.delta = delta
        data = 0.5 * ((image - noisy) ** 2).sum()
        down = image[1:, :] - image[:-1, :]
        right = image[:, 1:] - image[:, :-1]
        penalty = 0.0
        for step in (down, right):
            size = step.abs()
            inside = step**2 / (2.0 * delta)
            penalty = penalty + torch.where(size < delta, inside, size - delta / 2.0).sum()
        return data + strength * penalty

    @staticmethod
    def backward(ctx, grad_output):
        image, noisy = ctx.saved_tensors
        down = ((image[1:, :] - image[:-1, :]) / ctx.delta).clamp(-1.0, 1.0)
        right = ((image[:, 1:] - image[:, :-1]) / ctx.delta).clamp(-1.0, 1.0)
        vertical = functional.pad(down, (0, 0, 1, 0)) - functional.pad(down, (0, 0, 0, 1))
        horizontal = functional.pad(right, (1, 0)) - functional.pad(right, (0, 1))
        residual = image - noisy
        grad_image = residual + ctx.strength * (vertical + horizontal)
        return grad_output * grad_image, -grad_output * residual, None, None


LOSS = HuberTotalVariationLoss


def reference(image, noisy, strength, delta):
    def penalty(step):
        return functional.huber_loss(step, torch.zeros_like(step), reduction="sum", delta=delta)

    steps = penalty(image.diff(dim=0)) + penalty(image.diff(dim=1))
    return 0.5 * functional.mse_loss(image, noisy, reduction="sum") + strength * steps / delta


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(6, 7, grad=True), draw.normal(6, 7, grad=True), 0.4, 0.9
