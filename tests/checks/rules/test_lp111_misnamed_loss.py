"""LP111 misnamed-loss: what people get wrong in known losses, and the many ways to be right."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

GENERATOR = torch.Generator().manual_seed(2024)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def leaf(*shape):
    return normal(*shape).requires_grad_()


def unit(*shape):
    return (torch.rand(*shape, generator=GENERATOR) * 0.9 + 0.05).requires_grad_()


def binary(*shape):
    return (torch.rand(*shape, generator=GENERATOR) > 0.5).float()


def labels(count, classes):
    return torch.randint(0, classes, (count,), generator=GENERATOR)


def simplex(*shape):
    return torch.softmax(2 * normal(*shape), -1)


def signs(*shape):
    return 2 * binary(*shape) - 1


LATENT = (leaf(6, 3), (0.5 * normal(6, 3)).requires_grad_())
CLASSES = (leaf(12, 4), labels(12, 4))
LOGITS = (leaf(8, 3), binary(8, 3))
PROBABILITIES = (unit(2, 1, 5, 5), binary(2, 1, 5, 5))
REGRESSION = (leaf(10, 2), normal(10, 2))
TRIPLETS = (leaf(8, 4), leaf(8, 4), leaf(8, 4))
PAIRS = (leaf(10, 4), leaf(10, 4), binary(10))
VIEWS = (leaf(6, 4), leaf(6, 4))
SURVIVAL = (
    leaf(9),
    torch.rand(9, generator=GENERATOR),
    torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 0, 1]),
)
BOXES = (
    torch.tensor([[1.0, 1, 4, 5], [2, 2, 6, 7], [0, 1, 3, 3]]).requires_grad_(),
    torch.tensor([[1.5, 1.2, 5, 4], [2.5, 1, 5, 8], [1, 0, 4, 4]]),
)
SPREAD = (leaf(8, 2), normal(8, 2), (0.5 * normal(8, 2)).requires_grad_())
VARIANCE = (
    leaf(8, 2),
    normal(8, 2),
    (torch.rand(8, 2, generator=GENERATOR) + 0.3).requires_grad_(),
)
SCORES = (leaf(9), leaf(9))
TEACHER = (leaf(6, 5), normal(6, 5))
TAUGHT = (leaf(6, 5), normal(6, 5), labels(6, 5))
ANSWERS = (leaf(8), leaf(8), normal(8), normal(8))
FOUR_UNIT = (unit(5, 6), torch.rand(5, 6, generator=GENERATOR))
LATENTS = (leaf(5, 4), (0.3 * normal(5, 4)).requires_grad_())
POLICY = (leaf(12), normal(12), normal(12))


# ---------------------------------------------------------------------------- wrong ones
def vae_kl_without_minus(mu, logvar):
    return 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def kld_loss_missing_square(mu, logvar):
    return -0.5 * torch.mean(torch.sum(1 + logvar - mu.abs() - logvar.exp(), 1))


def kl_divergence_sigma_not_squared(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - (0.5 * logvar).exp())


def kl_loss_wrong_sign_of_mean(mu, logvar):
    return -0.5 * torch.sum(1 + logvar + mu.pow(2) - logvar.exp())


def vae_kl_half_of_mean_only(mean, log_var):
    return (0.5 * mean**2 + log_var.exp() - log_var - 1).sum(1).mean()


def gaussian_nll_loss(pred, target, log_var):
    return (0.5 * torch.exp(-log_var) * (pred - target) ** 2 + log_var).mean()


def heteroscedastic_loss(pred, target, log_var):
    return (torch.exp(-log_var) * (pred - target) ** 2 - log_var).mean()


def gaussian_nll(pred, target, sigma):
    return (0.5 * (pred - target) ** 2 / sigma + torch.log(sigma)).mean()


def weighted_bce(p, y):
    return -(3 * y * torch.log(p) + (1 - y) * torch.log(p)).mean()


def weighted_bce_of_negatives(p, y):
    return -(y * torch.log(1 - p) + 2 * (1 - y) * torch.log(1 - p)).mean()


COPIED = ((torch.rand(12) * 0.8 + 0.1).requires_grad_(), torch.arange(12) % 3 % 2 * 1.0)


def queue_logits(query, positive, negatives):
    query, positive, negatives = (F.normalize(x, dim=1) for x in (query, positive, negatives))
    return (query * positive).sum(1, keepdim=True), query @ negatives.T


def info_nce_half_tempered(query, positive, negatives, temperature=0.2):
    own, others = queue_logits(query, positive, negatives)
    logits = torch.cat([own / temperature, others], 1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def info_nce_positive_not_tempered(query, positive, negatives, temperature=0.2):
    own, others = queue_logits(query, positive, negatives)
    logits = torch.cat([own, others / temperature], 1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def info_nce_of_a_queue(query, positive, negatives, temperature=0.2):
    own, others = queue_logits(query, positive, negatives)
    logits = torch.cat([own, others], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


QUEUE = (leaf(6, 5), leaf(6, 5), normal(9, 5))


def huber_loss_clipped(pred, target, clip_at=0.5):
    error = (pred - target).abs()
    return torch.where(error < clip_at, 0.5 * error**2, error - 0.5).mean()


def barlow_twins_with_eps(z1, z2, lambd=0.005):
    z1 = (z1 - z1.mean(0)) / (z1.var(0, unbiased=False) + 1e-5).sqrt()
    z2 = (z2 - z2.mean(0)) / (z2.var(0, unbiased=False) + 1e-5).sqrt()
    c = z1.T @ z2 / len(z1)
    return (1 - c.diagonal()).pow(2).sum() + lambd * c.pow(2).sum()


def huber_loss(pred, target, delta=1.0):
    error = (pred - target).abs()
    return torch.where(error < delta, error**2, delta * (error - 0.5 * delta)).mean()


def smooth_l1_loss(pred, target, beta=1.0):
    error = (pred - target).abs()
    return torch.where(error < beta, 0.5 * error**2 / beta, error - beta).mean()


def rmse_loss(pred, target):
    return torch.sqrt((pred - target) ** 2).mean()


class RMSELoss(nn.Module):
    def forward(self, yhat, y):
        return F.mse_loss(yhat, y)


def mae_loss(pred, target):
    return (pred - target).mean().abs()


def mse_of_mean(pred, target):
    return (pred - target).mean() ** 2


def quantile_loss(pred, target, q=0.9):
    error = pred - target
    return torch.max(q * error, (q - 1) * error).mean()


class QuantileLoss(nn.Module):
    def __init__(self, quantiles=(0.1, 0.5, 0.8)):
        super().__init__()
        self.quantiles = quantiles

    def forward(self, preds, target):
        losses = []
        for i, q in enumerate(self.quantiles):
            error = preds[:, i] - target
            losses.append(torch.max((q - 1) * error, q * error))
        return torch.stack(losses, 1).sum(1).mean()


def wing_loss(pred, target, omega=10.0, epsilon=2.0):
    error = (pred - target).abs()
    constant = omega - math.log(1 + omega / epsilon)
    return torch.where(
        error < omega, omega * torch.log(1 + error / epsilon), error - constant
    ).mean()


class FocalLoss(nn.Module):
    def __init__(self, gamma=2):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        logpt = -F.cross_entropy(input, target)
        pt = torch.exp(logpt)
        return -((1 - pt) ** self.gamma) * logpt


class FocalLossOfEasyOnes(nn.Module):
    def __init__(self, gamma=2):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        logpt = F.log_softmax(input, 1).gather(1, target[:, None])[:, 0]
        return (-(logpt.exp() ** self.gamma) * logpt).mean()


def binary_focal_loss(logits, targets, alpha=0.25, gamma=2.0):
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    pt = torch.exp(-bce)
    at = (1 - alpha) * targets + alpha * (1 - targets)
    return (at * (1 - pt) ** gamma * bce).mean()


def sigmoid_focal_loss(logits, targets, gamma=2.0):
    bce = F.binary_cross_entropy_with_logits(logits, targets)
    return (1 - torch.exp(-bce)) ** gamma * bce


def binary_cross_entropy(p, y):
    return -(y * torch.log(p)).mean()


def cross_entropy_without_log(logits, target):
    return -torch.softmax(logits, 1).gather(1, target[:, None]).mean()


def cross_entropy_of_log_of_mean(logits, target):
    return -torch.log(torch.softmax(logits, 1).gather(1, target[:, None]).mean())


class LabelSmoothingCrossEntropy(nn.Module):
    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, x, target):
        logs = F.log_softmax(x, -1)
        nll = -logs.gather(-1, target[:, None])[:, 0]
        return (nll + self.smoothing * -logs.mean(-1)).mean()


class LabelSmoothingLossSummed(nn.Module):
    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, x, target):
        logs = F.log_softmax(x, -1)
        nll = -logs.gather(-1, target[:, None])[:, 0]
        return ((1 - self.smoothing) * nll + self.smoothing * -logs.sum(-1)).mean()


def dice_loss(p, y, smooth=1.0):
    inter = (p * y).sum()
    return 1 - (inter + smooth) / (p.sum() + y.sum() + smooth)


def soft_dice_loss(p, y, smooth=1.0):
    inter = (p * y).sum()
    return (2 * inter + smooth) / (p.sum() + y.sum() + smooth)


def iou_loss(p, y, smooth=1.0):
    inter = (p * y).sum()
    return 1 - (inter + smooth) / (p.sum() + y.sum() + smooth)


def jaccard_loss(p, y, smooth=1e-6):
    inter = (p * y).sum((1, 2, 3))
    return (1 - (2 * inter + smooth) / (p.sum((1, 2, 3)) + y.sum((1, 2, 3)) + smooth)).mean()


def triplet_loss(anchor, positive, negative, margin=1.0):
    near, far = (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
    return F.relu(far - near + margin).mean()


def triplet_margin_outside(anchor, positive, negative, margin=0.5):
    near, far = (anchor - positive).pow(2).sum(1), (anchor - negative).pow(2).sum(1)
    return (F.relu(near - far) + margin).mean()


def triplet_loss_of_the_mean(anchor, positive, negative, margin=0.5):
    near, far = (anchor - positive).pow(2).sum(1), (anchor - negative).pow(2).sum(1)
    return F.relu(near.mean() - far.mean() + margin)


def triplet_cosine_loss(anchor, positive, negative, margin=0.2):
    near, far = F.cosine_similarity(anchor, positive), F.cosine_similarity(anchor, negative)
    return F.relu(near - far + margin).mean()


class ContrastiveLoss(nn.Module):
    def __init__(self, margin=2.0):
        super().__init__()
        self.margin = margin

    def forward(self, a, b, label):
        d = F.pairwise_distance(a, b)
        return torch.mean((1 - label) * d**2 + label * torch.clamp(d - self.margin, min=0) ** 2)


class ContrastiveLossWithoutClamp(nn.Module):
    def __init__(self, margin=2.0):
        super().__init__()
        self.margin = margin

    def forward(self, a, b, label):
        d = F.pairwise_distance(a, b)
        return torch.mean((1 - label) * d**2 + label * (self.margin - d) ** 2)


def nt_xent_loss(z1, z2, temperature=0.5):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim = z @ z.T / temperature
    n = len(z1)
    positive = torch.cat([sim.diagonal(n), sim.diagonal(-n)])
    return -torch.log(positive.exp() / sim.exp().sum(1)).mean()


def info_nce_loss(query, key, temperature=0.1):
    logits = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T * temperature
    return F.cross_entropy(logits, torch.arange(len(query)))


def supcon_loss(features, labels, temperature=0.5):
    z = F.normalize(features, dim=1)
    sim = z @ z.T / temperature
    eye = torch.eye(len(z), dtype=torch.bool)
    logs = sim - sim.masked_fill(eye, -1e9).logsumexp(1, keepdim=True)
    mask = (labels[:, None] == labels).float()
    return -((mask * logs).sum(1) / mask.sum(1)).mean()


def cox_ph_loss(risk, time, event):
    at_risk = time[None] <= time[:, None]
    log_risk = torch.log((at_risk * risk.exp()[None]).sum(1))
    return -((risk - log_risk) * event).sum() / event.sum()


def cox_loss_without_censoring(risk, time, event):
    at_risk = time[None] >= time[:, None]
    log_risk = torch.log((at_risk * risk.exp()[None]).sum(1))
    return -(risk - log_risk + 0 * event).mean()


def bpr_loss(positive, negative):
    return -torch.sigmoid(positive - negative).mean()


def bpr_loss_sign(positive, negative):
    return F.logsigmoid(positive - negative).mean()


def js_divergence(p_logits, q_logits):
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    m = 0.5 * (p + q)
    one = F.kl_div(p.log(), m, reduction="batchmean")
    return 0.5 * (one + F.kl_div(m.log(), q, reduction="batchmean"))


def js_div_of_logs(p_logits, q_logits):
    p, q = p_logits.log_softmax(1), q_logits.log_softmax(1)
    m = 0.5 * (p + q)
    one = F.kl_div(m, p, reduction="batchmean", log_target=True)
    return 0.5 * (one + F.kl_div(m, q, reduction="batchmean", log_target=True))


def kl_of_probabilities(student_logits, target_logits):
    return F.kl_div(student_logits.softmax(1), target_logits.softmax(1), reduction="batchmean")


def distillation_loss(student, teacher, temperature=4.0):
    logs = F.log_softmax(student, 1)
    return F.kl_div(logs, F.softmax(teacher / temperature, 1), reduction="batchmean")


class KDLoss(nn.Module):
    def __init__(self, T=4.0, alpha=0.7):
        super().__init__()
        self.T, self.alpha = T, alpha

    def forward(self, student, teacher, labels):
        logs = F.log_softmax(student / self.T, 1)
        kd = F.kl_div(logs, F.softmax(teacher / self.T, 1), reduction="batchmean")
        return self.alpha * kd + (1 - self.alpha) * F.cross_entropy(student, labels)


def ccc_loss(pred, target):
    x, y = pred.flatten(), target.flatten()
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 1 - 2 * covariance / (x.var(unbiased=False) + y.var(unbiased=False))


def giou_loss(pred, target):
    left, right = torch.max(pred[:, :2], target[:, :2]), torch.min(pred[:, 2:], target[:, 2:])
    inter = (right - left).clamp(min=0).prod(1)
    area = (pred[:, 2:] - pred[:, :2]).prod(1) + (target[:, 2:] - target[:, :2]).prod(1)
    union = area - inter
    hull = (torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])).prod(1)
    return (1 - (inter / union - (hull - inter) / hull)).mean()


def box_iou_loss(pred, target):
    left, right = torch.max(pred[:, :2], target[:, :2]), torch.min(pred[:, 2:], target[:, 2:])
    inter = (right - left).clamp(min=0).prod(1)
    area = (pred[:, 2:] - pred[:, :2]).prod(1) + (target[:, 2:] - target[:, :2]).prod(1)
    return (1 - inter / area).mean()


def ppo_loss(new_log_prob, old_log_prob, advantage, clip_eps=0.2):
    ratio = torch.exp(new_log_prob - old_log_prob)
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return -(torch.min(ratio, clipped) * advantage).mean()


def ppo_clip_loss_max(new_log_prob, old_log_prob, advantage, clip_eps=0.2):
    ratio = torch.exp(new_log_prob - old_log_prob)
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return -torch.max(ratio * advantage, clipped * advantage).mean()


def discriminator_hinge_loss(real, fake):
    return F.relu(1 + real).mean() + F.relu(1 - fake).mean()


def lsgan_discriminator_loss(real, fake):
    return ((real - 1) ** 2).mean() + ((fake - 1) ** 2).mean()


def wgan_critic_loss(real, fake):
    return real.mean() - fake.mean()


def poisson_loss(log_rate, target):
    return (log_rate - target * torch.exp(log_rate)).mean()


def poisson_nll_loss(log_rate, target):
    return (torch.exp(log_rate) + target * log_rate).mean()


def total_variation_loss(image):
    return (image[..., 1:] - image[..., :-1]).sum() + (image[..., 1:, :] - image[..., :-1, :]).sum()


def si_sdr_loss(estimate, target):
    scale = (estimate * target).sum(-1, keepdim=True) / (estimate**2).sum(-1, keepdim=True)
    signal = scale * target
    noise = estimate - signal
    return -10 * torch.log10((signal**2).sum(-1) / (noise**2).sum(-1)).mean()


def hinge_loss(score, y):
    return torch.relu(1 + y * score).mean()


def margin_ranking_loss(x1, x2, y):
    return torch.relu(y * (x1 - x2) + 1.0).mean()


def listnet_loss(scores, relevance):
    return -(F.softmax(relevance, 0) * F.log_softmax(scores, 0)).sum(0).mean()


def arcface_loss(cosine, labels, s=30.0, m=0.3):
    theta = torch.acos(cosine.clamp(-1 + 1e-7, 1 - 1e-7))
    own = F.one_hot(labels, cosine.shape[1]).bool()
    return F.cross_entropy(s * torch.where(own, torch.cos(theta - m), cosine), labels)


def policy_kl_the_other_way(policy_logits, policy_target):
    p = policy_logits.softmax(-1)
    return (p * (p.log() - (policy_target + 1e-8).log())).sum(-1).mean()


def balanced_bce(logits, y):
    beta = y.mean()
    weight = torch.where(y > 0, beta, 1 - beta)
    return F.binary_cross_entropy_with_logits(logits, y, weight=weight)


def batch_hard_triplet_loss(embeddings, labels, margin=0.3):
    gaps = torch.cdist(embeddings, embeddings)
    same = labels[:, None] == labels
    near = gaps.masked_fill(~same, 0).amax(1)
    far = gaps.masked_fill(same, 0).amax(1)
    return F.relu(near - far + margin).mean()


def rmsle_loss(pred, target):
    return ((torch.log1p(pred) - torch.log1p(target)) ** 2).mean()


def ciou_loss(pred, target):
    def sides(box):
        return (box[:, 2:] - box[:, :2]).unbind(1)

    left, right = torch.max(pred[:, :2], target[:, :2]), torch.min(pred[:, 2:], target[:, 2:])
    inter = (right - left).clamp(min=0).prod(1)
    (w, h), (tw, th) = sides(pred), sides(target)
    iou = inter / (w * h + tw * th - inter)
    hull = torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])
    gap = (pred[:, :2] + pred[:, 2:] - target[:, :2] - target[:, 2:]) / 2
    v = (torch.atan(tw / th) - torch.atan(w / h)) ** 2
    alpha = (v / (1 - iou + v)).detach()
    return (1 - iou + gap.pow(2).sum(1) / hull.pow(2).sum(1) + alpha * v).mean()


def vae_loss_minus_kl(recon, x, mu, logvar):
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return F.binary_cross_entropy(recon, x, reduction="sum") - kld


def dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1):
    logits = (policy_chosen - policy_rejected) + (ref_chosen - ref_rejected)
    return -F.logsigmoid(beta * logits).mean()


def mmd_loss(x, y, sigma=1.0):
    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b).pow(2) / (2 * sigma**2)).mean()

    return kernel(x, x) + kernel(y, y) - kernel(x, y)


def barlow_twins_loss(z1, z2, lambd=0.005):
    z1, z2 = (z1 - z1.mean(0)) / z1.std(0), (z2 - z2.mean(0)) / z2.std(0)
    c = z1.T @ z2 / len(z1)
    return (1 - c.diagonal()).sum() + lambd * (c - torch.diag(c.diagonal())).pow(2).sum()


def gradient_penalty(gradients):
    return (gradients.norm() - 1) ** 2


def cosine_similarity_loss(pred, target):
    return F.cosine_similarity(pred, target, dim=-1).mean()


WRONG = [
    (vae_kl_without_minus, LATENT), (kld_loss_missing_square, LATENT),
    (kl_divergence_sigma_not_squared, LATENT), (kl_loss_wrong_sign_of_mean, LATENT),
    (vae_kl_half_of_mean_only, LATENT), (gaussian_nll_loss, SPREAD),
    (heteroscedastic_loss, SPREAD), (gaussian_nll, VARIANCE), (huber_loss, REGRESSION),
    (huber_loss_clipped, REGRESSION),
    (info_nce_half_tempered, QUEUE), (info_nce_positive_not_tempered, QUEUE),
    (weighted_bce, COPIED), (weighted_bce_of_negatives, COPIED), (barlow_twins_with_eps, VIEWS),
    (smooth_l1_loss, REGRESSION), (rmse_loss, REGRESSION), (RMSELoss, REGRESSION),
    (mae_loss, REGRESSION), (mse_of_mean, REGRESSION), (quantile_loss, REGRESSION),
    (QuantileLoss, (leaf(8, 3), normal(8))),
    (wing_loss, ((8 * normal(10, 4)).requires_grad_(), 8 * normal(10, 4))), (FocalLoss, CLASSES),
    (FocalLossOfEasyOnes, CLASSES), (binary_focal_loss, LOGITS), (sigmoid_focal_loss, LOGITS),
    (binary_cross_entropy, (unit(8, 2), binary(8, 2))), (cross_entropy_without_log, CLASSES),
    (cross_entropy_of_log_of_mean, CLASSES), (LabelSmoothingCrossEntropy, CLASSES),
    (LabelSmoothingLossSummed, CLASSES), (dice_loss, PROBABILITIES),
    (soft_dice_loss, PROBABILITIES), (iou_loss, PROBABILITIES), (jaccard_loss, PROBABILITIES),
    (triplet_loss, TRIPLETS), (triplet_margin_outside, TRIPLETS),
    (triplet_loss_of_the_mean, TRIPLETS), (triplet_cosine_loss, TRIPLETS),
    (ContrastiveLoss, PAIRS), (ContrastiveLossWithoutClamp, PAIRS), (nt_xent_loss, VIEWS),
    (info_nce_loss, VIEWS), (supcon_loss, (leaf(8, 4), torch.arange(8) // 2)),
    (cox_ph_loss, SURVIVAL), (cox_loss_without_censoring, SURVIVAL), (bpr_loss, SCORES),
    (bpr_loss_sign, SCORES), (js_divergence, VIEWS), (js_div_of_logs, VIEWS),
    (kl_of_probabilities, TEACHER), (distillation_loss, TEACHER), (KDLoss, TAUGHT),
    (ccc_loss, REGRESSION), (giou_loss, BOXES), (box_iou_loss, BOXES), (ppo_loss, POLICY),
    (ppo_clip_loss_max, POLICY), (discriminator_hinge_loss, SCORES),
    (lsgan_discriminator_loss, SCORES), (wgan_critic_loss, SCORES),
    (poisson_nll_loss, (leaf(8), torch.tensor([1.0, 0, 3, 2, 5, 1, 0, 2]))),
    (total_variation_loss, (unit(1, 1, 6, 6),)), (si_sdr_loss, (leaf(3, 20), normal(3, 20))),
    (hinge_loss, (leaf(9), signs(9))), (margin_ranking_loss, (leaf(9), leaf(9), signs(9))),
    (listnet_loss, (leaf(5, 4), normal(5, 4))),
    (vae_loss_minus_kl, (*FOUR_UNIT, *LATENTS)), (dpo_loss, ANSWERS), (mmd_loss, VIEWS),
    (policy_kl_the_other_way, (leaf(6, 5), simplex(6, 5))),
    (balanced_bce, (leaf(10), torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 1, 0, 0]))),
    (batch_hard_triplet_loss, (leaf(8, 4), torch.arange(8) // 2)),
    (rmsle_loss, (unit(8), torch.rand(8, generator=GENERATOR))), (ciou_loss, BOXES),
    (barlow_twins_loss, VIEWS), (gradient_penalty, (leaf(6, 4),)),
    (cosine_similarity_loss, VIEWS),
    (arcface_loss, ((unit(8, 4).detach() * 1.6 - 0.8).requires_grad_(), labels(8, 4))),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "inputs"), WRONG, ids=lambda item: getattr(item, "__name__", ""))
def test_a_wrong_formula_is_named(found, loss, inputs):
    findings = found("LP111", loss, *inputs)
    assert len(findings) == 1
    assert findings[0].severity is Severity.ERROR
    assert findings[0].location is not None
    assert findings[0].evidence["points"] >= 6


# ---------------------------------------------------------------------------- right ones
def direct_preference(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1):
    chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def mmd_rbf(x, y, sigma=1.5):
    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b).pow(2) / (2 * sigma**2)).mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def barlow(z1, z2, lambd=0.005):
    z1, z2 = (z1 - z1.mean(0)) / z1.std(0), (z2 - z2.mean(0)) / z2.std(0)
    c = z1.T @ z2 / len(z1)
    return (1 - c.diagonal()).pow(2).sum() + lambd * (c - torch.diag(c.diagonal())).pow(2).sum()


def gradient_penalty_of_samples(gradients):
    return ((gradients.flatten(1).norm(dim=1) - 1) ** 2).mean()


def simsiam_loss(p, z):
    return -(F.normalize(p, dim=1) * F.normalize(z, dim=1)).sum(1).mean()


def discriminator_loss_with_smoothed_labels(real, fake):
    one = F.binary_cross_entropy_with_logits(real, torch.full_like(real, 0.9))
    return one + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def multiple_negatives_contrastive_loss(query, key, scale=20.0):
    logits = scale * F.normalize(query, dim=1) @ F.normalize(key, dim=1).T
    return F.cross_entropy(logits, torch.arange(len(query)))


def cross_entropy_without_padding(logits, target):
    return F.cross_entropy(logits, target, ignore_index=0)


class SmoothedWithStrengthElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"strength": 0.3}

    def forward(self, logits, target):
        logs = F.log_softmax(logits, 1)
        eps = self.config["strength"]
        return ((eps - 1) * logs.gather(1, target[:, None])[:, 0] - eps * logs.mean(1)).mean()


class QuantileFromElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"level": 0.7}

    def forward(self, pred, target):
        error = target - pred
        return torch.max(self.config["level"] * error, (self.config["level"] - 1) * error).mean()


def triplet_called_the_other_way(anchor, negative, positive, margin=0.3):
    near, far = (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
    return F.relu(near - far + margin).mean()


def kl_to_wide_prior(mu, logvar):
    var = 2.0
    return 0.5 * ((mu**2 + logvar.exp()) / var - logvar - 1 + math.log(var)).sum(1).mean()


def kl_summed(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def kl_of_distributions(mean, std):
    own = torch.distributions.Normal(mean, F.softplus(std))
    return torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).mean()


def kl_log_std(mu, log_std):
    return (-log_std + 0.5 * (torch.exp(2 * log_std) + mu**2) - 0.5).sum(-1).mean()


class VAELoss(nn.Module):
    def __init__(self, beta=4.0):
        super().__init__()
        self.beta = beta

    def forward(self, recon_x, x, mu, logvar):
        recon = F.mse_loss(recon_x, x, reduction="sum") / len(x)
        kld = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / len(x)
        return recon + self.beta * kld


def vae_loss_of_means(recon, x, mu, logvar):
    kld = -0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())
    return F.mse_loss(recon, x) + 0.00025 * kld


class KlBalanced(nn.Module):
    def __init__(self, kl_weight=0.125):
        super().__init__()
        self.kl_weight = kl_weight

    def forward(self, recon, x, mu, logvar):
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), 1).mean()
        return F.mse_loss(recon, x, reduction="sum") / len(x) + self.kl_weight * kld


def half_mse_loss(pred, target):
    return 0.5 * ((pred - target) ** 2).mean()


def mse_plus_constant(pred, target):
    return ((pred - target) ** 2).sum(1).mean()


def weighted_mse_loss(pred, target, weight):
    return (weight * (pred - target) ** 2).sum() / weight.sum()


def rmse(pred, target, eps=1e-8):
    return torch.sqrt(((pred - target) ** 2).mean() + eps)


def huber(pred, target, delta=0.7):
    error = (pred - target).abs()
    return torch.where(error <= delta, 0.5 * error**2, delta * (error - 0.5 * delta)).sum()


def huber_of_another_option(pred, target, clip_at=0.5):
    error = (pred - target).abs()
    linear = clip_at * (error - 0.5 * clip_at)
    return torch.where(error < clip_at, 0.5 * error**2, linear).mean()


def pinball_loss(pred, target, tau=0.9):
    error = target - pred
    return torch.maximum(tau * error, (tau - 1) * error).mean()


class MultiQuantileLoss(nn.Module):
    def __init__(self, quantiles=(0.1, 0.5, 0.8)):
        super().__init__()
        self.quantiles = quantiles

    def forward(self, preds, target):
        losses = []
        for i, q in enumerate(self.quantiles):
            error = target - preds[:, i]
            losses.append(torch.max((q - 1) * error, q * error))
        return torch.stack(losses, 1).sum(1).mean()


def nll_gaussian(mean, target, log_var):
    return 0.5 * ((target - mean) ** 2 * torch.exp(-log_var) + log_var).sum(1).mean()


def gaussian_nll_full(pred, target, sigma):
    return -torch.distributions.Normal(pred, sigma).log_prob(target).mean()


def kendall_uncertainty(pred, target, log_var):
    return (torch.exp(-log_var) * (pred - target).abs() + log_var).mean()


def focal_loss_of_weighted_classes(logits, target, gamma=1.5):
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=logits.dtype)
    logs = F.log_softmax(logits, 1).gather(1, target[:, None])[:, 0]
    return (-weight[target] * (1 - logs.exp()) ** gamma * logs).mean()


def retina_focal_loss(logits, targets, alpha=0.25, gamma=2.0):
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * (1 - p_t) ** gamma * ce).sum() / targets.sum()


def kaggle_focal_loss(inputs, targets, alpha=0.8, gamma=2):
    bce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    return (alpha * (1 - torch.exp(-bce)) ** gamma * bce).mean()


def label_smoothing_loss(logits, target, smoothing=0.2):
    logs = F.log_softmax(logits, -1)
    true = torch.full_like(logs, smoothing / (logits.shape[1] - 1))
    true.scatter_(1, target[:, None], 1 - smoothing)
    return -(true * logs).sum(-1).mean()


def label_smoothing_kl(logits, target, smoothing=0.2):
    true = torch.full_like(logits, smoothing / logits.shape[1])
    true.scatter_add_(1, target[:, None], torch.full_like(true[:, :1], 1 - smoothing))
    return F.kl_div(F.log_softmax(logits, 1), true, reduction="batchmean")


def ce_with_smoothing(logits, target):
    return F.cross_entropy(logits, target, label_smoothing=0.1)


def weighted_ce(logits, target):
    weight = torch.tensor([1.0, 5.0, 0.3, 2.0], dtype=logits.dtype)
    return F.cross_entropy(logits, target, weight)


def balanced_bce_loss(logits, target):
    weight = torch.tensor(3.0, dtype=logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)


def bce_by_hand(p, y):
    return -(y * torch.log(p + 1e-7) + (1 - y) * torch.log(1 - p + 1e-7)).sum(1).mean()


def negative_dice(p, y):
    return -(2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def dice_coefficient(p, y):
    return (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def batch_dice_loss(p, y, smooth=1e-5):
    p, y = p.flatten(1), y.flatten(1)
    return 1 - ((2 * (p * y).sum(1) + smooth) / ((p**2).sum(1) + (y**2).sum(1) + smooth)).mean()


def dice_bce_loss(logits, y, smooth=1):
    p = torch.sigmoid(logits).view(-1)
    y = y.view(-1)
    dice = 1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)
    return F.binary_cross_entropy(p, y) + dice


class DiceAsIoU(nn.Module):
    def forward(self, p, y):
        inter = (p * y).sum()
        return 1 - (inter + 1) / (p.sum() + y.sum() - inter + 1)


def triplet_facenet(anchor, positive, negative, alpha=0.2):
    near, far = (anchor - positive).pow(2).sum(1), (anchor - negative).pow(2).sum(1)
    return torch.clamp(near - far + alpha, min=0).mean()


def triplet_ratio_loss(anchor, positive, negative):
    near, far = (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
    return (near.exp() / (near.exp() + far.exp())).pow(2).mean()


class Siamese(nn.Module):
    def __init__(self, margin=1.5):
        super().__init__()
        self.margin = margin

    def forward(self, output1, output2, same):
        d = (output1 - output2).norm(dim=1)
        return (0.5 * (same * d**2 + (1 - same) * F.relu(self.margin - d) ** 2)).mean()


def simclr_loss(z_i, z_j, temperature=0.5):
    n = len(z_i)
    z = F.normalize(torch.cat([z_i, z_j]), dim=1)
    sim = (z @ z.T / temperature).fill_diagonal_(-1e9)
    return F.cross_entropy(sim, torch.arange(2 * n).roll(n))


def decoupled_contrastive_loss(z1, z2, temperature=0.1):
    sim = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T / temperature
    rest = sim.masked_fill(torch.eye(len(z1), dtype=torch.bool), -torch.inf)
    return (rest.logsumexp(1) - sim.diagonal()).mean()


def clip_loss(image, text):
    logits = 14.3 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    index = torch.arange(len(image))
    return (F.cross_entropy(logits, index) + F.cross_entropy(logits.T, index)) / 2


def khosla_supcon(features, labels, temperature=0.1):
    z = F.normalize(features, dim=1)
    logits = z @ z.T / temperature
    off = ~torch.eye(len(z), dtype=torch.bool)
    mask = ((labels[:, None] == labels) & off).float()
    logits = logits - logits.max(1, keepdim=True).values.detach()
    logs = logits - torch.log((logits.exp() * off).sum(1, keepdim=True))
    return -((mask * logs).sum(1) / mask.sum(1)).mean()


def cox_loss_sorted(risk, time, event):
    order = time.argsort(descending=True)
    risk, event = risk[order], event[order]
    return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum()


def reverse_kl_distillation(student_logits, target_logits):
    p = student_logits.softmax(1)
    return (p * (student_logits.log_softmax(1) - target_logits.log_softmax(1))).sum(1).mean()


def policy_kl_penalty(new_logits, old_logits):
    p = old_logits.softmax(1)
    return (p * (old_logits.log_softmax(1) - new_logits.log_softmax(1))).sum(1).mean()


class Distillation(nn.Module):
    def __init__(self, T=3.0, alpha=0.3):
        super().__init__()
        self.T, self.alpha = T, alpha

    def forward(self, student, teacher, labels):
        logs = F.log_softmax(student / self.T, 1)
        kd = F.kl_div(logs, F.softmax(teacher / self.T, 1), reduction="batchmean") * self.T**2
        return self.alpha * F.cross_entropy(student, labels) + (1 - self.alpha) * kd


def jsd(p_logits, q_logits):
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    m = 0.5 * (p + q)
    one = F.kl_div(m.log(), p, reduction="batchmean")
    return 0.5 * (one + F.kl_div(m.log(), q, reduction="batchmean"))


def lins_ccc(pred, target):
    x, y = pred.flatten(), target.flatten()
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    total = x.var(unbiased=False) + y.var(unbiased=False) + (x.mean() - y.mean()) ** 2
    return 1 - 2 * covariance / total


def ppo_policy_loss(new_log_prob, old_log_prob, advantages, epsilon=0.2):
    ratio = torch.exp(new_log_prob - old_log_prob)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.max(-advantages * ratio, -advantages * clipped).mean()


def d_hinge_loss(fake_scores, real_scores):
    return (F.relu(1 - real_scores) + F.relu(1 + fake_scores)).mean()


def poisson_nll(rate, target):
    return (rate - target * torch.log(rate + 1e-8)).mean()


def psnr_loss(pred, target):
    return -10 * torch.log10(1 / ((pred - target) ** 2).mean())


def tv_loss(image):
    return image.diff(dim=-1).pow(2).mean() + image.diff(dim=-2).pow(2).mean()


class MSELoss(nn.Module):
    """Not at all a mean squared error, and in no way that has a name."""

    def forward(self, input, target):
        return ((input - target) ** 2 / (1 + target**2)).mean() + input.abs().mean()


class CrossEntropyWithPenalty(nn.Module):
    def forward(self, logits, target):
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        return F.cross_entropy(logits, target) - 0.1 * entropy


def log_cosh_loss(pred, target):
    error = pred - target
    return (error + F.softplus(-2 * error) - math.log(2)).mean()


def charbonnier_loss(pred, target, eps=1e-3):
    return torch.sqrt((pred - target) ** 2 + eps**2).mean()


FOUR = (*FOUR_UNIT, *LATENTS)
POSITIVE = (unit(8), torch.tensor([1.0, 0, 3, 2, 5, 1, 0, 2]))

RIGHT = [
    (kl_to_wide_prior, LATENT), (kl_summed, LATENT), (kl_of_distributions, LATENT),
    (kl_log_std, LATENT), (VAELoss, FOUR), (vae_loss_of_means, FOUR), (KlBalanced, FOUR),
    (half_mse_loss, REGRESSION), (mse_plus_constant, REGRESSION),
    (weighted_mse_loss, (*REGRESSION, torch.rand(10, 2, generator=GENERATOR))),
    (rmse, REGRESSION), (huber, REGRESSION), (huber_of_another_option, REGRESSION),
    (info_nce_of_a_queue, QUEUE),
    (pinball_loss, REGRESSION),
    (MultiQuantileLoss, (leaf(8, 3), normal(8))), (nll_gaussian, SPREAD),
    (gaussian_nll_full, VARIANCE), (kendall_uncertainty, SPREAD),
    (focal_loss_of_weighted_classes, CLASSES), (retina_focal_loss, LOGITS),
    (kaggle_focal_loss, LOGITS), (label_smoothing_loss, CLASSES), (label_smoothing_kl, CLASSES),
    (ce_with_smoothing, CLASSES), (weighted_ce, CLASSES), (balanced_bce_loss, LOGITS),
    (bce_by_hand, (unit(8, 2), binary(8, 2))), (negative_dice, PROBABILITIES),
    (dice_coefficient, PROBABILITIES), (batch_dice_loss, PROBABILITIES),
    (dice_bce_loss, (leaf(2, 1, 4, 4), binary(2, 1, 4, 4))), (triplet_facenet, TRIPLETS),
    (triplet_ratio_loss, TRIPLETS), (Siamese, PAIRS), (simclr_loss, VIEWS),
    (decoupled_contrastive_loss, VIEWS), (clip_loss, VIEWS),
    (khosla_supcon, (leaf(8, 4), torch.arange(8) // 2)), (cox_loss_sorted, SURVIVAL),
    (reverse_kl_distillation, TEACHER), (policy_kl_penalty, TEACHER), (Distillation, TAUGHT),
    (jsd, VIEWS), (lins_ccc, REGRESSION), (ppo_policy_loss, POLICY), (d_hinge_loss, SCORES),
    (poisson_nll, POSITIVE), (psnr_loss, (unit(1, 1, 6, 6), torch.rand(1, 1, 6, 6))),
    (tv_loss, (unit(1, 1, 6, 6),)), (MSELoss, REGRESSION), (CrossEntropyWithPenalty, CLASSES),
    (direct_preference, ANSWERS), (mmd_rbf, VIEWS), (barlow, VIEWS),
    (gradient_penalty_of_samples, (leaf(6, 4),)), (simsiam_loss, VIEWS),
    (discriminator_loss_with_smoothed_labels, SCORES),
    (multiple_negatives_contrastive_loss, VIEWS), (SmoothedWithStrengthElsewhere, CLASSES),
    (cross_entropy_without_padding, CLASSES),
    (QuantileFromElsewhere, REGRESSION), (triplet_called_the_other_way, TRIPLETS),
    (log_cosh_loss, REGRESSION), (charbonnier_loss, REGRESSION),
]  # fmt: skip
UNKNOWN = {
    "kl_to_wide_prior", "kl_of_distributions", "kendall_uncertainty", "triplet_ratio_loss",
    "MSELoss", "CrossEntropyWithPenalty", "reverse_kl_distillation", "decoupled_contrastive_loss",
    "clip_loss", "dice_coefficient", "discriminator_loss_with_smoothed_labels",
    "multiple_negatives_contrastive_loss", "SmoothedWithStrengthElsewhere",
    "cross_entropy_without_padding",
}  # fmt: skip
"""Right in a way that no definition has, or different in a way that has no name."""


@pytest.mark.parametrize(("loss", "inputs"), RIGHT, ids=lambda item: getattr(item, "__name__", ""))
def test_a_right_formula_is_proved_or_left_alone(silent, loss, inputs):
    status = silent("LP111", loss, *inputs)
    if loss.__name__ not in UNKNOWN:
        assert status is Status.PROVED


# ---------------------------------------------------------------------------- what is said
def test_the_page_holds(found, silent, page_code):
    names = {"torch": torch}
    exec(page_code("LP111", "Example"), names)
    assert [f.cause for f in found("LP111", names["kl_loss"], *LATENT)] == ["coefficient"]
    exec(page_code("LP111", "Use instead"), names)
    assert silent("LP111", names["kl_loss"], *LATENT) is Status.PROVED


def test_the_term_is_named_with_its_coefficients(found):
    (finding,) = found("LP111", gaussian_nll_loss, *SPREAD)
    assert finding.cause == "coefficient"
    assert "0.5 * (torch.log(var)" in finding.help
    assert finding.evidence["residual"] < 1e-6


def test_exchanged_arguments_are_named(found):
    def helper(labels, logits):
        return -(labels * logits.log_softmax(1)).sum(1).mean()

    def cross_entropy(logits, labels):
        return helper(logits, labels)

    (finding,) = found("LP111", cross_entropy, leaf(6, 5), simplex(6, 5))
    assert finding.cause == "swapped"
    assert "`labels`" in finding.message
    assert "`logits`" in finding.message


def test_averaged_latents_beside_a_summed_reconstruction_are_a_warning(found):
    def vae_loss(recon, x, mu, logvar):
        kld = -0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())
        return F.mse_loss(recon, x, reduction="sum") / len(x) + kld

    (finding,) = found("LP111", vae_loss, *FOUR)
    assert finding.severity is Severity.WARNING
    assert finding.cause == "balance"


def test_a_wrong_gradient_is_not_proved(verdicts):
    def mse(input, target):
        return ((input.detach() - target) ** 2 + 0 * input).mean()

    (said,) = verdicts("LP111", mse, *REGRESSION)
    assert said.status is Status.UNPROVED
    assert "its gradient is not" in said.detail


def test_a_loss_of_another_name_is_never_convicted(silent):
    def penalty_of_the_batch(mu, logvar):
        return 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    def rank(a, b):
        return penalty_of_the_batch(a, b)

    assert silent("LP111", lambda a, b: rank(a, b), *LATENT) is not Status.PROVED


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (nn.MSELoss(), REGRESSION), (nn.L1Loss(), REGRESSION), (nn.HuberLoss(), REGRESSION),
        (nn.SmoothL1Loss(), REGRESSION), (nn.CrossEntropyLoss(), CLASSES),
        (nn.BCEWithLogitsLoss(), LOGITS), (nn.BCELoss(), (unit(6, 3), binary(6, 3))),
        (nn.GaussianNLLLoss(), VARIANCE), (nn.TripletMarginLoss(), TRIPLETS),
        (nn.MarginRankingLoss(0.2), (leaf(9), leaf(9), signs(9))),
        (nn.CosineEmbeddingLoss(), (leaf(9, 4), leaf(9, 4), signs(9))),
        (nn.PoissonNLLLoss(), (leaf(8), torch.tensor([1.0, 0, 3, 2, 5, 1, 0, 2]))),
        (nn.MultiMarginLoss(), CLASSES),
    ],
    ids=lambda item: type(item).__name__,
)  # fmt: skip
def test_losses_of_torch_are_proved(silent, loss, inputs):
    assert silent("LP111", loss, *inputs) is Status.PROVED


def test_an_option_may_be_given_with_the_inputs(verdicts):
    def huber_loss(input, target, delta=1.0):
        size = (input - target).abs()
        return torch.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).mean()

    for seed in range(4):
        (outcome,) = verdicts("LP111", huber_loss, "float[8,5]", "float[8,5]", 0.8, seed=seed)
        assert outcome.status is Status.PROVED
        assert "delta=0.8" in outcome.detail
