"""Formulas that public threads found to be wrong, each written again in a few lines."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


def _boxes(count):
    corner = torch.rand(count, 2) * 4
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * 4], 1)


@mistake("LP111", "LP107")
def giou_subtracts_the_intersection():
    """The enclosing box loses the intersection instead of the union.

    https://github.com/noahcao/OC_SORT/issues/64
    """

    def giou_loss(pred, target):
        lt, rb = torch.max(pred[:, :2], target[:, :2]), torch.min(pred[:, 2:], target[:, 2:])
        inter = (rb - lt).clamp(min=0).prod(1)
        area_p, area_t = (
            (pred[:, 2:] - pred[:, :2]).prod(1),
            (target[:, 2:] - target[:, :2]).prod(1),
        )
        union = area_p + area_t - inter
        low, high = torch.min(pred[:, :2], target[:, :2]), torch.max(pred[:, 2:], target[:, 2:])
        enclose = (high - low).clamp(min=0).prod(1)
        giou = inter / union - (enclose - inter) / enclose
        return (1 - giou).mean()

    wrong = giou_loss

    def giou_loss(pred, target):
        lt, rb = torch.max(pred[:, :2], target[:, :2]), torch.min(pred[:, 2:], target[:, 2:])
        inter = (rb - lt).clamp(min=0).prod(1)
        area_p, area_t = (
            (pred[:, 2:] - pred[:, :2]).prod(1),
            (target[:, 2:] - target[:, :2]).prod(1),
        )
        union = area_p + area_t - inter
        low, high = torch.min(pred[:, :2], target[:, :2]), torch.max(pred[:, 2:], target[:, 2:])
        enclose = (high - low).clamp(min=0).prod(1)
        giou = inter / union - (enclose - union) / enclose
        return (1 - giou).mean()

    return wrong, giou_loss, lambda: (_boxes(6).requires_grad_(), _boxes(6))


@mistake("LP111", "LP107")
def focal_negatives_with_the_positive_weight():
    """Negatives are weighed with (1 - p)^gamma, which plays the hard ones down.

    https://github.com/yqyao/SSD_Pytorch/issues/32
    """

    class SigmoidFocalLoss(nn.Module):
        def __init__(self, alpha=0.25, gamma=2.0):
            super().__init__()
            self.alpha, self.gamma = alpha, gamma

        def forward(self, logits, targets):
            p = torch.sigmoid(logits)
            pos = -self.alpha * (1 - p) ** self.gamma * F.logsigmoid(logits) * targets
            neg = -(1 - self.alpha) * (1 - p) ** self.gamma * F.logsigmoid(-logits) * (1 - targets)
            return (pos + neg).mean()

    wrong = SigmoidFocalLoss()

    class SigmoidFocalLoss(nn.Module):
        def __init__(self, alpha=0.25, gamma=2.0):
            super().__init__()
            self.alpha, self.gamma = alpha, gamma

        def forward(self, logits, targets):
            p = torch.sigmoid(logits)
            pos = -self.alpha * (1 - p) ** self.gamma * F.logsigmoid(logits) * targets
            neg = -(1 - self.alpha) * p**self.gamma * F.logsigmoid(-logits) * (1 - targets)
            return (pos + neg).mean()

    def inputs():
        return torch.randn(8, 5, requires_grad=True), torch.randint(0, 2, (8, 5)).float()

    return wrong, SigmoidFocalLoss(), inputs


@mistake("LP111", "LP107")
def latent_variance_not_squared():
    """The network gives log sigma, and e^(log sigma) is taken for the variance.

    https://github.com/DaehanKim/vgae_pytorch/issues/2
    """

    def kl_loss(mean, logstd):
        return -0.5 * (1 + 2 * logstd - mean**2 - torch.exp(logstd)).sum(1).mean()

    wrong = kl_loss

    def kl_loss(mean, logstd):
        return -0.5 * (1 + 2 * logstd - mean**2 - torch.exp(logstd) ** 2).sum(1).mean()

    return (
        wrong,
        kl_loss,
        lambda: (
            torch.randn(8, 4, requires_grad=True),
            (0.5 * torch.randn(8, 4)).requires_grad_(),
        ),
    )


@mistake("LP111", "LP107")
def berhu_without_absolute_value():
    """The threshold is a fifth of the largest signed difference.

    https://github.com/dontLoveBugs/FCRN_pytorch/issues/8
    """

    class berHuLoss(nn.Module):
        def forward(self, pred, target):
            diff = pred - target
            c = 0.2 * torch.max(diff).detach()
            mask = (diff.abs() > c).float()
            loss = (1 - mask) * diff + mask * (diff**2 + c**2) / (2 * c)
            return loss.mean()

    wrong = berHuLoss()

    class berHuLoss(nn.Module):
        def forward(self, pred, target):
            diff = (pred - target).abs()
            c = 0.2 * torch.max(diff).detach().clamp(min=1e-12)
            mask = (diff > c).float()
            loss = (1 - mask) * diff + mask * (diff**2 + c**2) / (2 * c)
            return loss.mean()

    return (
        wrong,
        berHuLoss(),
        lambda: (
            (torch.rand(2, 1, 6, 6) * 5).requires_grad_(),
            torch.rand(2, 1, 6, 6) * 5,
        ),
    )


@mistake("LP111", "LP107", "LP110")
def huber_linear_part_ignores_delta():
    """Beyond delta the loss is |x| - 0.5 whatever delta is.

    https://github.com/tensorforce/tensorforce/issues/139
    """

    def huber_loss(q_value, q_target, clip_loss=2.0):
        delta = q_value - q_target
        loss = torch.where(delta.abs() < clip_loss, 0.5 * delta**2, delta.abs() - 0.5)
        return loss.mean()

    wrong = huber_loss

    def huber_loss(q_value, q_target, clip_loss=2.0):
        delta = q_value - q_target
        linear = 0.5 * clip_loss**2 + clip_loss * (delta.abs() - clip_loss)
        loss = torch.where(delta.abs() < clip_loss, 0.5 * delta**2, linear)
        return loss.mean()

    return (
        wrong,
        huber_loss,
        lambda: (
            (3 * torch.randn(16)).requires_grad_(),
            3 * torch.randn(16),
        ),
    )


@mistake("LP111", "LP107")
def wing_constant_multiplied():
    """The constant that joins the branches has w * eps where w / eps belongs."""

    class WingLoss(nn.Module):
        def __init__(self, w=10.0, epsilon=2.0):
            super().__init__()
            self.w, self.epsilon = w, epsilon
            self.C = w - w * math.log(1 + w * epsilon)

        def forward(self, pred, target):
            x = (pred - target).abs()
            small = self.w * torch.log(1 + x / self.epsilon)
            return torch.where(x < self.w, small, x - self.C).mean()

    wrong = WingLoss()

    class WingLoss(nn.Module):
        def __init__(self, w=10.0, epsilon=2.0):
            super().__init__()
            self.w, self.epsilon = w, epsilon
            self.C = w - w * math.log(1 + w / epsilon)

        def forward(self, pred, target):
            x = (pred - target).abs()
            small = self.w * torch.log(1 + x / self.epsilon)
            return torch.where(x < self.w, small, x - self.C).mean()

    return (
        wrong,
        WingLoss(),
        lambda: (
            (8 * torch.randn(4, 10)).requires_grad_(),
            8 * torch.randn(4, 10),
        ),
    )


@mistake("LP111", "LP107", "LP110")
def temperature_forgotten_for_negatives():
    """Positive similarities are divided by the temperature, negative ones are not.

    https://github.com/huiserwang/ContrastMask/issues/4
    """

    class InfoNCE(nn.Module):
        def __init__(self, temperature=0.2):
            super().__init__()
            self.temperature = temperature

        def forward(self, query, positive, negatives):
            query, positive = F.normalize(query, dim=1), F.normalize(positive, dim=1)
            negatives = F.normalize(negatives, dim=1)
            l_pos = (query * positive).sum(1, keepdim=True) / self.temperature
            l_neg = query @ negatives.t()
            logits = torch.cat([l_pos, l_neg], dim=1)
            labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
            return F.cross_entropy(logits, labels)

    wrong = InfoNCE()

    class InfoNCE(nn.Module):
        def __init__(self, temperature=0.2):
            super().__init__()
            self.temperature = temperature

        def forward(self, query, positive, negatives):
            query, positive = F.normalize(query, dim=1), F.normalize(positive, dim=1)
            negatives = F.normalize(negatives, dim=1)
            l_pos = (query * positive).sum(1, keepdim=True)
            l_neg = query @ negatives.t()
            logits = torch.cat([l_pos, l_neg], dim=1) / self.temperature
            labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
            return F.cross_entropy(logits, labels)

    return (
        wrong,
        InfoNCE(),
        lambda: (
            torch.randn(6, 8, requires_grad=True),
            torch.randn(6, 8, requires_grad=True),
            torch.randn(10, 8),
        ),
    )


@mistake("LP111", "LP107")
def barlow_off_diagonal_with_the_diagonal():
    """The redundancy term sums the whole matrix, and so drives the diagonal to 0, too."""

    class BarlowTwinsLoss(nn.Module):
        def __init__(self, lambd=0.05):
            super().__init__()
            self.lambd = lambd

        def forward(self, z1, z2):
            z1 = (z1 - z1.mean(0)) / (z1.std(0) + 1e-5)
            z2 = (z2 - z2.mean(0)) / (z2.std(0) + 1e-5)
            c = z1.t() @ z2 / len(z1)
            on_diag = (torch.diagonal(c) - 1).pow(2).sum()
            off_diag = c.pow(2).sum()
            return on_diag + self.lambd * off_diag

    wrong = BarlowTwinsLoss()

    class BarlowTwinsLoss(nn.Module):
        def __init__(self, lambd=0.05):
            super().__init__()
            self.lambd = lambd

        def forward(self, z1, z2):
            z1 = (z1 - z1.mean(0)) / (z1.std(0) + 1e-5)
            z2 = (z2 - z2.mean(0)) / (z2.std(0) + 1e-5)
            c = z1.t() @ z2 / len(z1)
            on_diag = (torch.diagonal(c) - 1).pow(2).sum()
            off_diag = c.pow(2).sum() - torch.diagonal(c).pow(2).sum()
            return on_diag + self.lambd * off_diag

    return (
        wrong,
        BarlowTwinsLoss(),
        lambda: (
            torch.randn(16, 5, requires_grad=True),
            torch.randn(16, 5, requires_grad=True),
        ),
    )


@mistake("LP111", "LP107", "LP109")
def divergence_without_the_logarithm():
    """The divergence of the mean assignment from the prior has lost a logarithm.

    https://github.com/lightly-ai/lightly/issues/1340
    """

    def kl_regularization(logits, prior):
        mean_probs = F.softmax(logits, dim=1).mean(0)
        return F.kl_div(mean_probs, prior, reduction="sum")

    wrong = kl_regularization

    def kl_regularization(logits, prior):
        log_probs = F.log_softmax(logits, dim=1)
        mean_log_probs = torch.logsumexp(log_probs, 0) - math.log(len(logits))
        return F.kl_div(mean_log_probs, prior, reduction="sum")

    def inputs():
        return torch.randn(12, 5, requires_grad=True), torch.softmax(torch.randn(5), 0)

    return wrong, kl_regularization, inputs


@mistake("LP111", "LP107")
def angular_margin_with_the_wrong_sign():
    """cos(theta + m) is written with a plus: the margin makes the task easier."""

    class ArcMarginLoss(nn.Module):
        def __init__(self, s=16.0, m=0.5):
            super().__init__()
            self.s, self.cos_m, self.sin_m = s, math.cos(m), math.sin(m)

        def forward(self, cosine, label):
            sine = torch.sqrt((1.0 - cosine**2).clamp(min=1e-6))
            phi = cosine * self.cos_m + sine * self.sin_m
            one_hot = F.one_hot(label, cosine.shape[1]).to(cosine.dtype)
            return F.cross_entropy(self.s * (one_hot * phi + (1 - one_hot) * cosine), label)

    wrong = ArcMarginLoss()

    class ArcMarginLoss(nn.Module):
        def __init__(self, s=16.0, m=0.5):
            super().__init__()
            self.s, self.cos_m, self.sin_m = s, math.cos(m), math.sin(m)

        def forward(self, cosine, label):
            sine = torch.sqrt((1.0 - cosine**2).clamp(min=1e-6))
            phi = cosine * self.cos_m - sine * self.sin_m
            one_hot = F.one_hot(label, cosine.shape[1]).to(cosine.dtype)
            return F.cross_entropy(self.s * (one_hot * phi + (1 - one_hot) * cosine), label)

    def inputs():
        cosine = F.normalize(torch.randn(8, 6), dim=1) @ F.normalize(torch.randn(6, 4), dim=0)
        return cosine.requires_grad_(), torch.randint(0, 4, (8,))

    return wrong, ArcMarginLoss(), inputs
