"""Signs, labels and activations that people got wrong, each written again in a few lines."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP107", "LP111")
def asymmetry_exchanged():
    """Overestimates are punished where the paper punishes underestimates.

    https://github.com/IDKiro/CBDNet-pytorch/issues/27
    """

    class AsymmetricLoss(nn.Module):
        def forward(self, est_noise, gt_noise):
            weight = torch.abs(0.3 - torch.lt(gt_noise, est_noise).float())
            return torch.mean(weight * torch.pow(est_noise - gt_noise, 2))

    wrong = AsymmetricLoss()

    class AsymmetricLoss(nn.Module):
        def forward(self, est_noise, gt_noise):
            weight = torch.abs(0.3 - torch.lt(est_noise, gt_noise).float())
            return torch.mean(weight * torch.pow(est_noise - gt_noise, 2))

    return (
        wrong,
        AsymmetricLoss(),
        lambda: (
            torch.rand(2, 3, 5, 5, requires_grad=True),
            torch.rand(2, 3, 5, 5),
        ),
    )


@mistake("LP107", "LP111")
def pairwise_logistic_without_minus():
    """A right ranking is what costs most.

    https://github.com/tensorflow/ranking/issues/23
    """

    def pairwise_logistic_loss(pos_scores, neg_scores):
        return torch.log1p(torch.exp(pos_scores - neg_scores)).mean()

    wrong = pairwise_logistic_loss

    def pairwise_logistic_loss(pos_scores, neg_scores):
        return F.softplus(neg_scores - pos_scores).mean()

    return (
        wrong,
        pairwise_logistic_loss,
        lambda: (
            torch.randn(10, requires_grad=True),
            torch.randn(10, requires_grad=True),
        ),
    )


@mistake("LP107", "LP111")
def signal_to_noise_ratio_minimised():
    """The scale-invariant ratio is returned as it is, and training makes it smaller."""

    class SISNRLoss(nn.Module):
        def forward(self, estimate, target):
            estimate = estimate - estimate.mean(-1, keepdim=True)
            target = target - target.mean(-1, keepdim=True)
            scale = (estimate * target).sum(-1, keepdim=True) / (
                target.pow(2).sum(-1, keepdim=True) + 1e-8
            )
            noise = estimate - scale * target
            ratio = (scale * target).pow(2).sum(-1) / (noise.pow(2).sum(-1) + 1e-8)
            return 10 * torch.log10(ratio + 1e-8).mean()

    wrong = SISNRLoss()

    class SISNRLoss(nn.Module):
        def forward(self, estimate, target):
            estimate = estimate - estimate.mean(-1, keepdim=True)
            target = target - target.mean(-1, keepdim=True)
            scale = (estimate * target).sum(-1, keepdim=True) / (
                target.pow(2).sum(-1, keepdim=True) + 1e-8
            )
            noise = estimate - scale * target
            ratio = (scale * target).pow(2).sum(-1) / (noise.pow(2).sum(-1) + 1e-8)
            return -10 * torch.log10(ratio + 1e-8).mean()

    return wrong, SISNRLoss(), lambda: (torch.randn(3, 64, requires_grad=True), torch.randn(3, 64))


@mistake("LP109", "LP107", "LP111")
def ranking_with_labels_zero_one():
    """The margin ranking wants labels of -1 and 1 and gets 0 and 1.

    https://github.com/seathiefwang/RankPose/issues/4
    """

    def rank_loss(scores_a, scores_b, label):
        return F.margin_ranking_loss(scores_a, scores_b, label, margin=0.5)

    wrong = rank_loss

    def rank_loss(scores_a, scores_b, label):
        return F.margin_ranking_loss(scores_a, scores_b, 2 * label - 1, margin=0.5)

    return (
        wrong,
        rank_loss,
        lambda: (
            torch.randn(10, requires_grad=True),
            torch.randn(10, requires_grad=True),
            torch.randint(0, 2, (10,)).float(),
        ),
    )


@mistake("LP109", "LP107", "LP111")
def cosine_embedding_with_labels_zero_one():
    """Pairs that differ have label 0, which the cosine loss knows nothing of."""

    class SiameseLoss(nn.Module):
        def __init__(self, margin=0.3):
            super().__init__()
            self.criterion = nn.CosineEmbeddingLoss(margin=margin)

        def forward(self, emb1, emb2, same):
            return self.criterion(emb1, emb2, same)

    wrong = SiameseLoss()

    class SiameseLoss(nn.Module):
        def __init__(self, margin=0.3):
            super().__init__()
            self.criterion = nn.CosineEmbeddingLoss(margin=margin)

        def forward(self, emb1, emb2, same):
            return self.criterion(emb1, emb2, 2 * same - 1)

    return (
        wrong,
        SiameseLoss(),
        lambda: (
            torch.randn(8, 6, requires_grad=True),
            torch.randn(8, 6, requires_grad=True),
            torch.randint(0, 2, (8,)).float(),
        ),
    )


@mistake("LP109", "LP107", "LP111")
def soft_margin_with_labels_zero_one():
    """log(1 + e^(-y x)) is constant at y = 0: negatives teach nothing."""

    def logistic_loss(scores, labels):
        return F.softplus(-labels * scores).mean()

    wrong = logistic_loss

    def logistic_loss(scores, labels):
        return F.softplus(-(2 * labels - 1) * scores).mean()

    return (
        wrong,
        logistic_loss,
        lambda: (
            torch.randn(12, requires_grad=True),
            torch.randint(0, 2, (12,)).float(),
        ),
    )


@mistake("LP108", "LP111")
def sigmoid_inside_and_logits_outside():
    """The focal weight wants probabilities, and the same variable goes into the logits form."""

    class FocalLoss(nn.Module):
        def __init__(self, gamma=2.0):
            super().__init__()
            self.gamma = gamma

        def forward(self, inputs, targets):
            inputs = torch.sigmoid(inputs)
            bce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
            pt = torch.exp(-bce)
            return ((1 - pt) ** self.gamma * bce).mean()

    wrong = FocalLoss()

    class FocalLoss(nn.Module):
        def __init__(self, gamma=2.0):
            super().__init__()
            self.gamma = gamma

        def forward(self, inputs, targets):
            bce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
            pt = torch.exp(-bce)
            return ((1 - pt) ** self.gamma * bce).mean()

    return (
        wrong,
        FocalLoss(),
        lambda: (
            torch.randn(8, 3, requires_grad=True),
            torch.randint(0, 2, (8, 3)).float(),
        ),
    )


@mistake("LP108", "LP111")
def model_ends_with_softmax():
    """The classifier ends with a softmax, and the criterion is the cross entropy."""

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 4), nn.Softmax(dim=1))
            self.criterion = nn.CrossEntropyLoss()

        def forward(self, features, labels):
            return self.criterion(self.net(features), labels)

    wrong = Classifier()

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 4))
            self.criterion = nn.CrossEntropyLoss()

        def forward(self, features, labels):
            return self.criterion(self.net(features), labels)

    return (
        wrong,
        Classifier(),
        lambda: (
            torch.randn(8, 6, requires_grad=True),
            torch.randint(0, 4, (8,)),
        ),
    )
