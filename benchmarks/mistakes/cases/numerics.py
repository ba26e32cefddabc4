"""Mistakes at the edge: domains, overflow, half precision, batches in which nothing counts."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP304", "LP301", "LP201")
def no_positive_anchor():
    """The loss divides by the number of positives, which may be none."""

    class DetectionLoss(nn.Module):
        def forward(self, pred_boxes, gt_boxes, positive):
            loss = F.smooth_l1_loss(pred_boxes, gt_boxes, reduction="none").sum(1)
            return (loss * positive).sum() / positive.sum()

    wrong = DetectionLoss()

    class DetectionLoss(nn.Module):
        def forward(self, pred_boxes, gt_boxes, positive):
            loss = F.smooth_l1_loss(pred_boxes, gt_boxes, reduction="none").sum(1)
            return (loss * positive).sum() / positive.sum().clamp(min=1)

    def inputs():
        positive = torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0])
        return torch.randn(8, 4, requires_grad=True), torch.randn(8, 4), positive

    return wrong, DetectionLoss(), inputs


@mistake("LP304", "LP201")
def early_return_without_graph():
    """A batch without valid pixels returns a fresh zero that cannot be differentiated."""

    def valid_depth_loss(pred, depth):
        valid = depth > 0
        if not valid.any():
            return torch.zeros(())
        return (pred[valid] - depth[valid]).abs().mean()

    wrong = valid_depth_loss

    def valid_depth_loss(pred, depth):
        valid = depth > 0
        if not valid.any():
            return pred.sum() * 0
        return (pred[valid] - depth[valid]).abs().mean()

    def inputs():
        depth = torch.rand(2, 6, 6) * (torch.rand(2, 6, 6) > 0.4)
        return torch.rand(2, 6, 6, requires_grad=True), depth

    return wrong, valid_depth_loss, inputs


@mistake("LP301", "LP302", "LP305")
def log_of_a_probability():
    """log(softmax) underflows to log(0)."""

    class SoftTargetCrossEntropy(nn.Module):
        def forward(self, logits, target):
            probs = torch.softmax(logits, dim=-1)
            return torch.sum(-target * torch.log(probs), dim=-1).mean()

    wrong = SoftTargetCrossEntropy()

    class SoftTargetCrossEntropy(nn.Module):
        def forward(self, logits, target):
            return torch.sum(-target * F.log_softmax(logits, dim=-1), dim=-1).mean()

    def inputs():
        return torch.randn(8, 5, requires_grad=True), torch.softmax(torch.randn(8, 5), 1)

    return wrong, SoftTargetCrossEntropy(), inputs


@mistake("LP301", "LP209", "LP302")
def distance_at_zero():
    """The gradient of a norm at 0 is NaN, and equal embeddings are at distance 0."""

    def centre_distance_loss(features, centers, labels):
        gap = features - centers[labels]
        return torch.sqrt((gap**2).sum(1)).mean()

    wrong = centre_distance_loss

    def centre_distance_loss(features, centers, labels):
        gap = features - centers[labels]
        return torch.sqrt((gap**2).sum(1) + 1e-12).mean()

    def inputs():
        labels = torch.randint(0, 3, (8,))
        return torch.randn(8, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True), labels

    return wrong, centre_distance_loss, inputs


@mistake("LP302", "LP303", "LP305", "LP301")
def softplus_by_hand():
    """log(1 + exp(x)) overflows at 89."""

    def logistic_loss(scores, y):
        return torch.log(1 + torch.exp(-y * scores)).mean()

    wrong = logistic_loss

    def logistic_loss(scores, y):
        return F.softplus(-y * scores).mean()

    def inputs():
        return torch.randn(10, requires_grad=True), torch.randint(0, 2, (10,)).float() * 2 - 1

    return wrong, logistic_loss, inputs


@mistake("LP302", "LP305", "LP301")
def log_sum_exp_by_hand():
    """exp of raw similarities over a small temperature overflows."""

    class NTXentLoss(nn.Module):
        def __init__(self, temperature=0.01):
            super().__init__()
            self.temperature = temperature

        def forward(self, z_i, z_j):
            z_i, z_j = F.normalize(z_i, dim=1), F.normalize(z_j, dim=1)
            similarity = torch.exp(z_i @ z_j.T / self.temperature)
            return -torch.log(similarity.diagonal() / similarity.sum(1)).mean()

    wrong = NTXentLoss()

    class NTXentLoss(nn.Module):
        def __init__(self, temperature=0.01):
            super().__init__()
            self.temperature = temperature

        def forward(self, z_i, z_j):
            z_i, z_j = F.normalize(z_i, dim=1), F.normalize(z_j, dim=1)
            similarity = z_i @ z_j.T / self.temperature
            return F.cross_entropy(similarity, torch.arange(len(z_i)))

    def inputs():
        return torch.randn(8, 6, requires_grad=True), torch.randn(8, 6, requires_grad=True)

    return wrong, NTXentLoss(), inputs


@mistake("LP301", "LP302", "LP305")
def acos_of_a_rounded_cosine():
    """acos has no finite derivative at 1, where a perfect direction lies."""

    def angular_loss(pred, target):
        cosine = F.cosine_similarity(pred, target, dim=1)
        return torch.acos(cosine).mean()

    wrong = angular_loss

    def angular_loss(pred, target):
        cosine = F.cosine_similarity(pred, target, dim=1)
        return torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)).mean()

    def inputs():
        return torch.randn(8, 3, requires_grad=True), torch.randn(8, 3)

    return wrong, angular_loss, inputs


@mistake("LP303", "LP302")
def dice_sums_overflow_in_half():
    """A sum over a large image exceeds 65504 in float16."""

    def dice_loss(pred, target):
        numerator = 2 * (pred * target).sum()
        denominator = (pred * pred).sum() + (target * target).sum()
        return 1 - numerator / denominator

    wrong = dice_loss

    def dice_loss(pred, target):
        pred, target = pred.float(), target.float()
        numerator = 2 * (pred * target).sum() + 1e-6
        denominator = (pred * pred).sum() + (target * target).sum() + 1e-6
        return 1 - numerator / denominator

    def inputs():
        pred = torch.rand(1, 1, 400, 400).half().requires_grad_()
        return pred, torch.ones(1, 1, 400, 400).half()

    return wrong, dice_loss, inputs


@mistake("LP305", "LP302", "LP301")
def variance_by_difference():
    """E[x^2] - E[x]^2 loses all digits where the mean is large."""

    def variance_penalty(input, target):
        error = input - target
        variance = (error**2).mean(1) - error.mean(1) ** 2
        return torch.sqrt(variance).mean()

    wrong = variance_penalty

    def variance_penalty(input, target):
        error = input - target
        variance = ((error - error.mean(1, keepdim=True)) ** 2).mean(1)
        return torch.sqrt(variance + 1e-12).mean()

    def inputs():
        return torch.randn(6, 8, requires_grad=True), torch.randn(6, 8)

    return wrong, variance_penalty, inputs


@mistake("LP304", "LP301")
def single_class_batch():
    """Balancing weights divide by the number of samples of each class."""

    def balanced_bce_loss(logits, targets):
        positives = targets.sum()
        negatives = targets.numel() - positives
        weight = targets * (negatives / positives) + (1 - targets)
        return F.binary_cross_entropy_with_logits(logits, targets, weight=weight)

    wrong = balanced_bce_loss

    def balanced_bce_loss(logits, targets):
        positives = targets.sum().clamp(min=1)
        negatives = targets.numel() - targets.sum()
        weight = targets * (negatives / positives) + (1 - targets)
        return F.binary_cross_entropy_with_logits(logits, targets, weight=weight)

    def inputs():
        return torch.randn(10, requires_grad=True), torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1, 0, 0])

    return wrong, balanced_bce_loss, inputs


@mistake("LP301", "LP302", "LP305", "LP209")
def fractional_power_of_a_difference():
    """A negative base under a fractional power is NaN."""

    def power_loss(pred, target):
        return torch.pow(pred - target, 1.5).mean()

    wrong = power_loss

    def power_loss(pred, target):
        return ((pred - target).abs() + 1e-8).pow(1.5).mean()

    def inputs():
        return (0.5 + 0.5 * torch.rand(8)).requires_grad_(), 0.4 * torch.rand(8)

    return wrong, power_loss, inputs
