"""Mistakes of averaging: the wrong denominator, the wrong axis, samples that meet."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP105", "LP111")
def masked_mse():
    """The numerator is masked, the denominator counts all positions, padding included."""

    def masked_mse_loss(pred, target, mask):
        return ((pred - target) ** 2 * mask).mean()

    wrong = masked_mse_loss

    def masked_mse_loss(pred, target, mask):
        return ((pred - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)

    def inputs():
        mask = (torch.arange(10) < torch.tensor([[10], [7], [4], [2]])).float()
        return torch.randn(4, 10, requires_grad=True), torch.randn(4, 10), mask

    return wrong, masked_mse_loss, inputs


@mistake("LP105", "LP106", "LP111")
def sequence_length_as_batch():
    """A token loss is summed and divided by the number of sequences only."""

    def sequence_cross_entropy(logits, labels):
        batch, length, classes = logits.shape
        loss = F.cross_entropy(logits.view(-1, classes), labels.view(-1), reduction="sum")
        return loss / batch / batch

    wrong = sequence_cross_entropy

    def sequence_cross_entropy(logits, labels):
        batch, length, classes = logits.shape
        loss = F.cross_entropy(logits.view(-1, classes), labels.view(-1), reduction="sum")
        return loss / (batch * length)

    def inputs():
        return torch.randn(6, 9, 5, requires_grad=True), torch.randint(0, 5, (6, 9))

    return wrong, sequence_cross_entropy, inputs


@mistake("LP105", "LP111")
def regulariser_grows_with_batch():
    """One term is a mean, the other a sum over the batch: their ratio depends on the batch."""

    def vae_loss(recon_x, x, mu, logvar):
        reconstruction = F.mse_loss(recon_x, x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return reconstruction + kl

    wrong = vae_loss

    def vae_loss(recon_x, x, mu, logvar):
        reconstruction = F.mse_loss(recon_x, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        return reconstruction + kl

    def inputs():
        return (
            torch.randn(8, 12, requires_grad=True),
            torch.randn(8, 12),
            torch.randn(8, 3, requires_grad=True),
            torch.randn(8, 3, requires_grad=True),
        )

    return wrong, vae_loss, inputs


@mistake("LP106", "LP111")
def softmax_over_the_batch():
    """The distillation softens over the batch instead of over the classes."""

    class DistillationLoss(nn.Module):
        def __init__(self, temperature=4.0):
            super().__init__()
            self.temperature = temperature

        def forward(self, student_logits, teacher_logits):
            t = self.temperature
            student = F.log_softmax(student_logits / t, dim=0)
            teacher = F.softmax(teacher_logits / t, dim=0)
            return F.kl_div(student, teacher, reduction="batchmean") * t * t

    wrong = DistillationLoss()

    class DistillationLoss(nn.Module):
        def __init__(self, temperature=4.0):
            super().__init__()
            self.temperature = temperature

        def forward(self, student_logits, teacher_logits):
            t = self.temperature
            student = F.log_softmax(student_logits / t, dim=1)
            teacher = F.softmax(teacher_logits / t, dim=1)
            return F.kl_div(student, teacher, reduction="batchmean") * t * t

    def inputs():
        return torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)

    return wrong, DistillationLoss(), inputs


@mistake("LP106", "LP105")
def normalise_over_the_batch():
    """The embeddings are normalised along the batch axis."""

    def cosine_regression_loss(pred, target):
        pred = F.normalize(pred, dim=0)
        target = F.normalize(target, dim=0)
        return (1 - (pred * target).sum(1)).mean()

    wrong = cosine_regression_loss

    def cosine_regression_loss(pred, target):
        pred = F.normalize(pred, dim=1)
        target = F.normalize(target, dim=1)
        return (1 - (pred * target).sum(1)).mean()

    def inputs():
        return torch.randn(8, 6, requires_grad=True), torch.randn(8, 6)

    return wrong, cosine_regression_loss, inputs


@mistake("LP106", "LP111")
def view_instead_of_permute():
    """Per-pixel cross entropy on a view that mixes classes and pixels."""

    class PixelCrossEntropy(nn.Module):
        def forward(self, logits, target):
            n, c, h, w = logits.shape
            return F.cross_entropy(logits.reshape(n * h * w, c), target.reshape(-1))

    wrong = PixelCrossEntropy()

    class PixelCrossEntropy(nn.Module):
        def forward(self, logits, target):
            n, c, h, w = logits.shape
            return F.cross_entropy(logits.permute(0, 2, 3, 1).reshape(-1, c), target.reshape(-1))

    def inputs():
        return torch.randn(2, 4, 6, 5, requires_grad=True), torch.randint(0, 4, (2, 6, 5))

    return wrong, PixelCrossEntropy(), inputs


@mistake("LP105")
def weights_in_the_numerator_only_of_ignored():
    """Ignored labels are zeroed with `ignore_index`, but the mean divides by all of them."""

    def token_loss(logits, labels, pad_id=0):
        losses = F.cross_entropy(logits, labels, ignore_index=pad_id, reduction="none")
        return losses.sum() / labels.numel()

    wrong = token_loss

    def token_loss(logits, labels, pad_id=0):
        losses = F.cross_entropy(logits, labels, ignore_index=pad_id, reduction="none")
        return losses.sum() / (labels != pad_id).sum().clamp(min=1)

    def inputs():
        labels = torch.tensor([3, 1, 4, 2, 1, 0, 0, 0, 3, 0])
        return torch.randn(10, 5, requires_grad=True), labels

    return wrong, token_loss, inputs


@mistake("LP105", "LP111")
def sum_over_pixels_and_samples():
    """An L1 image loss is summed where the docstring promises a mean."""

    class ReconstructionLoss(nn.Module):
        """Mean absolute error between two images."""

        def forward(self, output, target):
            return torch.abs(output - target).sum()

    wrong = ReconstructionLoss()

    class ReconstructionLoss(nn.Module):
        """Mean absolute error between two images."""

        def forward(self, output, target):
            return torch.abs(output - target).mean()

    def inputs():
        return torch.rand(4, 3, 6, 6, requires_grad=True), torch.rand(4, 3, 6, 6)

    return wrong, ReconstructionLoss(), inputs


@mistake("LP405")
def neighbours_in_the_batch():
    """Ranks each sample against the next one in the batch, whatever its label."""

    def pairwise_rank_loss(scores, relevance):
        difference = scores[:-1] - scores[1:]
        return F.softplus(-difference).mean()

    wrong = pairwise_rank_loss

    def pairwise_rank_loss(scores, relevance):
        difference = scores[:, None] - scores[None, :]
        better = (relevance[:, None] > relevance[None, :]).float()
        return (F.softplus(-difference) * better).sum() / better.sum().clamp(min=1)

    def inputs():
        return torch.randn(12, requires_grad=True), torch.rand(12)

    return wrong, pairwise_rank_loss, inputs


@mistake("LP405", "LP111")
def cox_without_sorting():
    """The risk set is a running sum, and nothing sorts by time."""

    class CoxPHLoss(nn.Module):
        def forward(self, log_h, durations, events):
            log_risk = torch.logcumsumexp(log_h, 0)
            return -((log_h - log_risk) * events).sum() / events.sum().clamp(min=1)

    wrong = CoxPHLoss()

    class CoxPHLoss(nn.Module):
        def forward(self, log_h, durations, events):
            order = durations.argsort(descending=True)
            log_h, events = log_h[order], events[order]
            log_risk = torch.logcumsumexp(log_h, 0)
            return -((log_h - log_risk) * events).sum() / events.sum().clamp(min=1)

    def inputs():
        return (
            torch.randn(10, requires_grad=True),
            torch.rand(10) * 5,
            (torch.rand(10) < 0.7).float(),
        )

    return wrong, CoxPHLoss(), inputs


@mistake("LP104", "LP101")
def reduction_never_read():
    """`reduction` is taken by the constructor and never used."""

    class CharbonnierLoss(nn.Module):
        def __init__(self, eps=1e-3, reduction="mean"):
            super().__init__()
            self.eps = eps
            self.reduction = reduction

        def forward(self, input, target):
            return torch.sqrt((input - target) ** 2 + self.eps**2).mean()

    wrong = CharbonnierLoss()

    class CharbonnierLoss(nn.Module):
        def __init__(self, eps=1e-3, reduction="mean"):
            super().__init__()
            self.eps = eps
            self.reduction = reduction

        def forward(self, input, target):
            loss = torch.sqrt((input - target) ** 2 + self.eps**2)
            if self.reduction == "none":
                return loss
            return loss.mean() if self.reduction == "mean" else loss.sum()

    def inputs():
        return torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)

    return wrong, CharbonnierLoss(), inputs


@mistake("LP104")
def reduction_typo():
    """`"avg"` is compared where callers pass `"mean"`: the sum is returned."""

    def huber_like_loss(input, target, delta=1.0, reduction="mean"):
        gap = (input - target).abs()
        loss = torch.where(gap < delta, 0.5 * gap**2, delta * (gap - 0.5 * delta))
        if reduction == "avg":
            return loss.mean()
        elif reduction == "none":
            return loss
        return loss.sum()

    wrong = huber_like_loss

    def huber_like_loss(input, target, delta=1.0, reduction="mean"):
        gap = (input - target).abs()
        loss = torch.where(gap < delta, 0.5 * gap**2, delta * (gap - 0.5 * delta))
        if reduction == "mean":
            return loss.mean()
        elif reduction == "none":
            return loss
        return loss.sum()

    def inputs():
        return torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)

    return wrong, huber_like_loss, inputs


@mistake("LP104")
def inner_reduction_wins():
    """The inner loss already averages, so `reduction="none"` gives one number."""

    class WeightedBCELoss(nn.Module):
        def __init__(self, positive_weight=2.0, reduction="mean"):
            super().__init__()
            self.positive_weight = positive_weight
            self.reduction = reduction

        def forward(self, logits, targets):
            bce = F.binary_cross_entropy_with_logits(logits, targets)
            loss = bce * (1 + (self.positive_weight - 1) * targets)
            if self.reduction == "mean":
                return loss.mean()
            if self.reduction == "sum":
                return loss.sum()
            return loss

    wrong = WeightedBCELoss()

    class WeightedBCELoss(nn.Module):
        def __init__(self, positive_weight=2.0, reduction="mean"):
            super().__init__()
            self.positive_weight = positive_weight
            self.reduction = reduction

        def forward(self, logits, targets):
            bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            loss = bce * (1 + (self.positive_weight - 1) * targets)
            if self.reduction == "mean":
                return loss.mean()
            if self.reduction == "sum":
                return loss.sum()
            return loss

    def inputs():
        return torch.randn(8, requires_grad=True), torch.randint(0, 2, (8,)).float()

    return wrong, WeightedBCELoss(), inputs


@mistake("LP102", "LP105")
def column_against_row():
    """The network's [N, 1] meets a target of shape [N]."""

    def log_cosh_loss(pred, target):
        gap = pred - target
        return torch.log(torch.cosh(gap)).mean()

    wrong = log_cosh_loss

    def log_cosh_loss(pred, target):
        gap = pred.squeeze(-1) - target
        return (gap.abs() + F.softplus(-2 * gap.abs()) - 0.6931471805599453).mean()

    def inputs():
        return torch.randn(9, 1, requires_grad=True), torch.randn(9)

    return wrong, log_cosh_loss, inputs
