"""Mistakes of the formula: a term, a sign, a factor, an argument, a convention."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP111", "LP107")
def focal_power_of_the_wrong_probability():
    """Hard samples are played down: the weight is p_t^gamma instead of (1 - p_t)^gamma."""

    class FocalLoss(nn.Module):
        def __init__(self, gamma=2.0):
            super().__init__()
            self.gamma = gamma

        def forward(self, inputs, targets):
            bce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
            pt = torch.exp(-bce)
            return (pt**self.gamma * bce).mean()

    wrong = FocalLoss()

    class FocalLoss(nn.Module):
        def __init__(self, gamma=2.0):
            super().__init__()
            self.gamma = gamma

        def forward(self, inputs, targets):
            bce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
            pt = torch.exp(-bce)
            return ((1 - pt) ** self.gamma * bce).mean()

    def inputs():
        return torch.randn(8, 3, requires_grad=True), torch.randint(0, 2, (8, 3)).float()

    return wrong, FocalLoss(), inputs


@mistake("LP107", "LP111")
def iou_returned_as_loss():
    """The overlap itself is returned, so training makes it smaller."""

    class IoULoss(nn.Module):
        def forward(self, inputs, targets, smooth=1.0):
            inputs = torch.sigmoid(inputs).flatten(1)
            targets = targets.flatten(1)
            intersection = (inputs * targets).sum(1)
            union = inputs.sum(1) + targets.sum(1) - intersection
            return ((intersection + smooth) / (union + smooth)).mean()

    wrong = IoULoss()

    class IoULoss(nn.Module):
        def forward(self, inputs, targets, smooth=1.0):
            inputs = torch.sigmoid(inputs).flatten(1)
            targets = targets.flatten(1)
            intersection = (inputs * targets).sum(1)
            union = inputs.sum(1) + targets.sum(1) - intersection
            return 1 - ((intersection + smooth) / (union + smooth)).mean()

    def inputs():
        return torch.randn(3, 1, 6, 6, requires_grad=True), torch.randint(
            0, 2, (3, 1, 6, 6)
        ).float()

    return wrong, IoULoss(), inputs


@mistake("LP111", "LP107")
def union_without_the_intersection():
    """The union counts the overlap twice: a perfect mask still costs a half."""

    def jaccard_loss(y_pred, y_true, eps=1e-6):
        intersection = (y_pred * y_true).sum((1, 2, 3))
        union = y_pred.sum((1, 2, 3)) + y_true.sum((1, 2, 3))
        return (1 - (intersection + eps) / (union + eps)).mean()

    wrong = jaccard_loss

    def jaccard_loss(y_pred, y_true, eps=1e-6):
        intersection = (y_pred * y_true).sum((1, 2, 3))
        union = y_pred.sum((1, 2, 3)) + y_true.sum((1, 2, 3)) - intersection
        return (1 - (intersection + eps) / (union + eps)).mean()

    def inputs():
        return torch.rand(3, 1, 6, 6, requires_grad=True), torch.randint(0, 2, (3, 1, 6, 6)).float()

    return wrong, jaccard_loss, inputs


@mistake("LP107", "LP111")
def triplet_roles_exchanged():
    """Positive and negative are exchanged inside the hinge."""

    class TripletLoss(nn.Module):
        def __init__(self, margin=1.0):
            super().__init__()
            self.margin = margin

        def forward(self, anchor, positive, negative):
            d_pos = (anchor - positive).pow(2).sum(1)
            d_neg = (anchor - negative).pow(2).sum(1)
            return F.relu(d_neg - d_pos + self.margin).mean()

    wrong = TripletLoss()

    class TripletLoss(nn.Module):
        def __init__(self, margin=1.0):
            super().__init__()
            self.margin = margin

        def forward(self, anchor, positive, negative):
            d_pos = (anchor - positive).pow(2).sum(1)
            d_neg = (anchor - negative).pow(2).sum(1)
            return F.relu(d_pos - d_neg + self.margin).mean()

    def inputs():
        return tuple(torch.randn(7, 5, requires_grad=True) for _ in range(3))

    return wrong, TripletLoss(), inputs


@mistake("LP111", "LP107")
def gaussian_nll_without_the_half():
    """log sigma^2 enters whole while the squared error is halved."""

    def gaussian_nll(mean, log_var, target):
        return (log_var + 0.5 * (target - mean) ** 2 / log_var.exp()).mean()

    wrong = gaussian_nll

    def gaussian_nll(mean, log_var, target):
        return 0.5 * (log_var + (target - mean) ** 2 / log_var.exp()).mean()

    def inputs():
        return (
            torch.randn(9, requires_grad=True),
            torch.randn(9, requires_grad=True),
            torch.randn(9),
        )

    return wrong, gaussian_nll, inputs


@mistake("LP107", "LP111")
def kl_divergence_with_the_wrong_sign():
    """`+ 0.5 * sum(1 + logvar - mu^2 - e^logvar)` drives mu and logvar away from 0."""

    def kl_divergence(mu, logvar):
        return 0.5 * torch.mean(torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))

    wrong = kl_divergence

    def kl_divergence(mu, logvar):
        return -0.5 * torch.mean(torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))

    def inputs():
        return torch.randn(8, 4, requires_grad=True), torch.randn(8, 4, requires_grad=True)

    return wrong, kl_divergence, inputs


@mistake("LP111", "LP107")
def pinball_exchanged():
    """The quantile and its complement are exchanged."""

    class QuantileLoss(nn.Module):
        def __init__(self, quantile=0.9):
            super().__init__()
            self.quantile = quantile

        def forward(self, y_pred, y_true):
            errors = y_pred - y_true
            return torch.max((self.quantile - 1) * errors, self.quantile * errors).mean()

    wrong = QuantileLoss()

    class QuantileLoss(nn.Module):
        def __init__(self, quantile=0.9):
            super().__init__()
            self.quantile = quantile

        def forward(self, y_pred, y_true):
            errors = y_true - y_pred
            return torch.max((self.quantile - 1) * errors, self.quantile * errors).mean()

    def inputs():
        return torch.randn(9, requires_grad=True), torch.randn(9)

    return wrong, QuantileLoss(), inputs


@mistake("LP108", "LP111")
def sigmoid_before_logits():
    """The head applies the sigmoid and the criterion applies it again."""

    class DiceBCELoss(nn.Module):
        def forward(self, logits, targets):
            probs = torch.sigmoid(logits)
            overlap = (probs * targets).sum()
            dice = 1 - (2 * overlap + 1) / (probs.sum() + targets.sum() + 1)
            return dice + F.binary_cross_entropy_with_logits(probs, targets)

    wrong = DiceBCELoss()

    class DiceBCELoss(nn.Module):
        def forward(self, logits, targets):
            probs = torch.sigmoid(logits)
            overlap = (probs * targets).sum()
            dice = 1 - (2 * overlap + 1) / (probs.sum() + targets.sum() + 1)
            return dice + F.binary_cross_entropy_with_logits(logits, targets)

    def inputs():
        return torch.randn(3, 1, 5, 5, requires_grad=True), torch.randint(
            0, 2, (3, 1, 5, 5)
        ).float()

    return wrong, DiceBCELoss(), inputs


@mistake("LP108", "LP111")
def log_softmax_before_cross_entropy_weighting():
    """Softmax is taken first, and `cross_entropy` takes its logarithm of a softmax again."""

    class WeightedCrossEntropy(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weights", torch.tensor([1.0, 2.0, 0.5]))

        def forward(self, outputs, labels):
            outputs = torch.softmax(outputs, dim=-1)
            return F.cross_entropy(outputs, labels, weight=self.weights)

    wrong = WeightedCrossEntropy()

    class WeightedCrossEntropy(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weights", torch.tensor([1.0, 2.0, 0.5]))

        def forward(self, outputs, labels):
            return F.cross_entropy(outputs, labels, weight=self.weights)

    def inputs():
        return torch.randn(10, 3, requires_grad=True), torch.randint(0, 3, (10,))

    return wrong, WeightedCrossEntropy(), inputs


@mistake("LP109", "LP108", "LP111")
def kl_div_of_probabilities():
    """`kl_div` wants log-probabilities and gets probabilities."""

    def consistency_loss(student_logits, teacher_logits):
        student = F.softmax(student_logits, dim=1)
        teacher = F.softmax(teacher_logits, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean")

    wrong = consistency_loss

    def consistency_loss(student_logits, teacher_logits):
        student = F.log_softmax(student_logits, dim=1)
        teacher = F.softmax(teacher_logits, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean")

    def inputs():
        return torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)

    return wrong, consistency_loss, inputs


@mistake("LP109", "LP107", "LP111")
def hinge_with_labels_zero_one():
    """The hinge wants labels of -1 and 1 and gets 0 and 1."""

    class HingeLoss(nn.Module):
        def forward(self, output, target):
            return torch.clamp(1 - output * target, min=0).mean()

    wrong = HingeLoss()

    class HingeLoss(nn.Module):
        def forward(self, output, target):
            return torch.clamp(1 - output * (2 * target - 1), min=0).mean()

    def inputs():
        return torch.randn(10, requires_grad=True), torch.randint(0, 2, (10,)).float()

    return wrong, HingeLoss(), inputs


@mistake("LP109", "LP111", "LP107")
def bce_arguments_exchanged():
    """`binary_cross_entropy(target, input)`: the logarithm is taken of the labels."""

    def segmentation_loss(pred, mask):
        pred = torch.sigmoid(pred)
        return F.binary_cross_entropy(mask, pred)

    wrong = segmentation_loss

    def segmentation_loss(pred, mask):
        pred = torch.sigmoid(pred)
        return F.binary_cross_entropy(pred, mask)

    def inputs():
        return torch.randn(3, 1, 5, 5, requires_grad=True), torch.rand(3, 1, 5, 5) * 0.9 + 0.05

    return wrong, segmentation_loss, inputs


@mistake("LP110", "LP111")
def gamma_never_used():
    """The exponent of the focal weight is written as a number."""

    class BinaryFocalLoss(nn.Module):
        def __init__(self, alpha=0.25, gamma=2.0):
            super().__init__()
            self.alpha = alpha
            self.gamma = gamma

        def forward(self, logits, targets):
            p = torch.sigmoid(logits)
            ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            p_t = p * targets + (1 - p) * (1 - targets)
            alpha_t = self.alpha * targets + (1 - self.alpha) * (1 - targets)
            return (alpha_t * (1 - p_t) ** 2 * ce).mean()

    wrong = BinaryFocalLoss()

    class BinaryFocalLoss(nn.Module):
        def __init__(self, alpha=0.25, gamma=2.0):
            super().__init__()
            self.alpha = alpha
            self.gamma = gamma

        def forward(self, logits, targets):
            p = torch.sigmoid(logits)
            ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            p_t = p * targets + (1 - p) * (1 - targets)
            alpha_t = self.alpha * targets + (1 - self.alpha) * (1 - targets)
            return (alpha_t * (1 - p_t) ** self.gamma * ce).mean()

    def inputs():
        return torch.randn(10, requires_grad=True), torch.randint(0, 2, (10,)).float()

    return wrong, BinaryFocalLoss(), inputs


@mistake("LP111", "LP107")
def info_nce_positive_left_out():
    """The denominator holds the negatives alone: the loss can be made as small as one likes."""

    def info_nce_loss(query, key, temperature=0.1):
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
        logits = query @ key.T / temperature
        positive = logits.diagonal()
        mask = torch.eye(len(logits), dtype=torch.bool)
        negatives = logits.masked_fill(mask, float("-inf"))
        return (torch.logsumexp(negatives, 1) + positive).mean()

    wrong = info_nce_loss

    def info_nce_loss(query, key, temperature=0.1):
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
        logits = query @ key.T / temperature
        return F.cross_entropy(logits, torch.arange(len(logits)))

    def inputs():
        return torch.randn(8, 6, requires_grad=True), torch.randn(8, 6, requires_grad=True)

    return wrong, info_nce_loss, inputs


@mistake("LP111", "LP107")
def tversky_alpha_and_beta():
    """alpha and beta weigh the other kind of error than the paper's."""

    class TverskyLoss(nn.Module):
        def __init__(self, alpha=0.3, beta=0.7, smooth=1.0):
            super().__init__()
            self.alpha, self.beta, self.smooth = alpha, beta, smooth

        def forward(self, inputs, targets):
            inputs, targets = torch.sigmoid(inputs).reshape(-1), targets.reshape(-1)
            tp = (inputs * targets).sum()
            fp = ((1 - targets) * inputs).sum()
            fn = (targets * (1 - inputs)).sum()
            index = (tp + self.smooth) / (tp + self.alpha * fn + self.beta * fp + self.smooth)
            return 1 - index

    wrong = TverskyLoss()

    class TverskyLoss(nn.Module):
        def __init__(self, alpha=0.3, beta=0.7, smooth=1.0):
            super().__init__()
            self.alpha, self.beta, self.smooth = alpha, beta, smooth

        def forward(self, inputs, targets):
            inputs, targets = torch.sigmoid(inputs).reshape(-1), targets.reshape(-1)
            tp = (inputs * targets).sum()
            fp = ((1 - targets) * inputs).sum()
            fn = (targets * (1 - inputs)).sum()
            index = (tp + self.smooth) / (tp + self.alpha * fp + self.beta * fn + self.smooth)
            return 1 - index

    def inputs():
        return torch.randn(2, 1, 6, 6, requires_grad=True), torch.randint(
            0, 2, (2, 1, 6, 6)
        ).float()

    return wrong, TverskyLoss(), inputs


@mistake("LP111")
def distillation_without_temperature_squared():
    """The soft term is not multiplied by T^2, so it fades as T grows."""

    def kd_loss(student_logits, teacher_logits, labels, T=4.0, alpha=0.5):
        soft = F.kl_div(
            F.log_softmax(student_logits / T, dim=1),
            F.softmax(teacher_logits / T, dim=1),
            reduction="batchmean",
        )
        return alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)

    wrong = kd_loss

    def kd_loss(student_logits, teacher_logits, labels, T=4.0, alpha=0.5):
        soft = F.kl_div(
            F.log_softmax(student_logits / T, dim=1),
            F.softmax(teacher_logits / T, dim=1),
            reduction="batchmean",
        )
        return alpha * T * T * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)

    def inputs():
        return torch.randn(8, 5, requires_grad=True), torch.randn(8, 5), torch.randint(0, 5, (8,))

    return wrong, kd_loss, inputs


@mistake("LP107", "LP111")
def contrastive_label_inverted():
    """Label 1 means "same" in the data, and the formula pulls where the label is 0."""

    class ContrastiveLoss(nn.Module):
        """Takes 1 for a pair of the same class and 0 for a pair of different classes."""

        def __init__(self, margin=1.0):
            super().__init__()
            self.margin = margin

        def forward(self, output1, output2, same):
            distance = F.pairwise_distance(output1, output2)
            pull = (1 - same) * distance.pow(2)
            push = same * torch.clamp(self.margin - distance, min=0).pow(2)
            return (pull + push).mean()

    wrong = ContrastiveLoss()

    class ContrastiveLoss(nn.Module):
        """Takes 1 for a pair of the same class and 0 for a pair of different classes."""

        def __init__(self, margin=1.0):
            super().__init__()
            self.margin = margin

        def forward(self, output1, output2, same):
            distance = F.pairwise_distance(output1, output2)
            pull = same * distance.pow(2)
            push = (1 - same) * torch.clamp(self.margin - distance, min=0).pow(2)
            return (pull + push).mean()

    def inputs():
        return (
            torch.randn(8, 4, requires_grad=True),
            torch.randn(8, 4, requires_grad=True),
            torch.randint(0, 2, (8,)).float(),
        )

    return wrong, ContrastiveLoss(), inputs


@mistake("LP107", "LP111")
def correlation_maximised_as_loss():
    """The Pearson correlation is minimised."""

    def correlation_loss(pred, target):
        pred = pred - pred.mean()
        target = target - target.mean()
        return (pred * target).sum() / (pred.norm() * target.norm() + 1e-8)

    wrong = correlation_loss

    def correlation_loss(pred, target):
        pred = pred - pred.mean()
        target = target - target.mean()
        return 1 - (pred * target).sum() / (pred.norm() * target.norm() + 1e-8)

    def inputs():
        return torch.randn(12, requires_grad=True), torch.randn(12)

    return wrong, correlation_loss, inputs
