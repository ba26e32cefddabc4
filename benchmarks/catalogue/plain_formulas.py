"""The twelve most used losses as a user would write them down: the formula, and nothing else.

No argument is checked, nothing can be ignored, there is one reduction. Under ``torch.compile`` this
is what a loss of the catalogue is measured against.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def sigmoid_focal(input: Tensor, target: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    p = input.sigmoid()
    wrong = p + target - 2 * p * target
    return (cross_entropy * wrong**2 * (0.25 * target + 0.75 * (1 - target))).mean()


def softmax_focal(input: Tensor, target: Tensor) -> Tensor:
    log_p = input.log_softmax(1).gather(1, target.unsqueeze(1))
    return ((1 - log_p.exp()) ** 2 * -log_p).mean()


def _overlap(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p = input.softmax(1)
    classes = torch.arange(input.shape[1]).view(1, -1, 1, 1)
    truth = target.unsqueeze(1) == classes
    hit = torch.where(truth, p, 0.0).sum((2, 3))
    return hit, p.sum((2, 3)), truth.to(p.dtype).sum((2, 3))


def dice(input: Tensor, target: Tensor) -> Tensor:
    hit, predicted, true = _overlap(input, target)
    return (1 - (2 * hit + 1e-5) / (predicted + true + 1e-5)).mean()


def tversky(input: Tensor, target: Tensor) -> Tensor:
    hit, predicted, true = _overlap(input, target)
    denominator = hit + 0.3 * (predicted - hit) + 0.7 * (true - hit)
    return (1 - (hit + 1e-5) / (denominator + 1e-5)).mean()


def lovasz_softmax(input: Tensor, target: Tensor) -> Tensor:
    classes = input.shape[1]
    p = input.softmax(1).movedim(1, 0).reshape(classes, -1)
    truth = target.reshape(1, -1) == torch.arange(classes).unsqueeze(1)
    errors, order = torch.where(truth, 1 - p, p).sort(1, descending=True)
    sorted_truth = truth.gather(1, order).to(errors.dtype)
    total = sorted_truth.sum(1, keepdim=True)
    jaccard = 1 - (total - sorted_truth.cumsum(1)) / (total + (1 - sorted_truth).cumsum(1))
    slopes = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], 1)
    return (errors * slopes).sum(1).mean()


def asymmetric(input: Tensor, target: Tensor) -> Tensor:
    p = input.sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    positive = target * (1 - p) * F.logsigmoid(input)
    negative = (1 - target) * shifted**4 * torch.log1p(-shifted)
    return -(positive + negative).mean()


def nt_xent(input1: Tensor, input2: Tensor) -> Tensor:
    z = F.normalize(torch.cat([input1, input2]), dim=1)
    similarity = z @ z.T / 0.5
    n = input1.shape[0]
    similarity = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))


def sup_con(input: Tensor, target: Tensor) -> Tensor:
    z = F.normalize(input, dim=1)
    similarity = z @ z.T / 0.1
    itself = torch.eye(input.shape[0], dtype=torch.bool)
    others = similarity.masked_fill(itself, -math.inf)
    log_p = similarity - others.logsumexp(1, keepdim=True)
    positive = (target.unsqueeze(1) == target) & ~itself
    return -(torch.where(positive, log_p, 0.0).sum(1) / positive.sum(1)).mean()


def batch_hard_triplet(input: Tensor, target: Tensor) -> Tensor:
    squares = input.square().sum(1)
    squared = squares.unsqueeze(1) + squares - 2 * input @ input.T
    distance = squared.clamp(min=1e-12).sqrt()
    same = target.unsqueeze(1) == target
    farthest = torch.where(same, distance, -1.0).amax(1)
    nearest = torch.where(same, math.inf, distance).amin(1)
    return F.relu(farthest - nearest + 0.3).mean()


WINDOW = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]


def ssim(input: Tensor, target: Tensor) -> Tensor:
    weights = [w / sum(WINDOW) for w in WINDOW]
    rows, columns = input.shape[2] - 10, input.shape[3] - 10

    def blur(x: Tensor) -> Tensor:
        x = sum(w * x[..., i : i + rows, :] for i, w in enumerate(weights))
        return sum(w * x[..., i : i + columns] for i, w in enumerate(weights))

    x, y, xx, yy, xy = blur(torch.stack([input, target, input**2, target**2, input * target]))
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * x * y + c1) / (x**2 + y**2 + c1)
    structure = (2 * (xy - x * y) + c2) / (xx - x**2 + yy - y**2 + c2)
    return 1 - (luminance * structure).mean()


def crps_ensemble(input: Tensor, target: Tensor) -> Tensor:
    members = input.shape[1]
    rank = 2 * torch.arange(1, members + 1) - members - 1
    spread = (input.sort(1).values * rank).sum(1) / members**2
    return ((input - target.unsqueeze(1)).abs().mean(1) - spread).mean()


def barlow_twins(input1: Tensor, input2: Tensor) -> Tensor:
    def standardised(x: Tensor) -> Tensor:
        return (x - x.mean(0)) * torch.rsqrt(x.var(0, correction=0) + 1e-5)

    correlation = standardised(input1).T @ standardised(input2) / input1.shape[0]
    diagonal = correlation.diagonal()
    off = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + 5e-3 * off
