"""Loops, crashes, state and devices that people got wrong, each written again in a few lines."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP501", "LP502")
def dice_of_every_image_in_turn():
    """Images and classes are visited one by one, with a float at each."""

    class MulticlassDice(nn.Module):
        def forward(self, probs, onehot):
            total = 0.0
            for i in range(probs.shape[0]):
                for c in range(probs.shape[1]):
                    p, t = probs[i, c], onehot[i, c]
                    total = total + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            return total / (probs.shape[0] * probs.shape[1])

    wrong = MulticlassDice()

    class MulticlassDice(nn.Module):
        def forward(self, probs, onehot):
            inter = (probs * onehot).sum((2, 3))
            total = (probs + onehot).sum((2, 3))
            return (1 - (2 * inter + 1) / (total + 1)).mean()

    def inputs():
        labels = torch.randint(0, 4, (8, 6, 6))
        onehot = F.one_hot(labels, 4).permute(0, 3, 1, 2).float()
        return torch.randn(8, 4, 6, 6).softmax(1).requires_grad_(), onehot

    return wrong, MulticlassDice(), inputs


@mistake("LP501", "LP502")
def pairs_by_two_loops():
    """All pairs of a batch are compared in two Python loops."""

    def pairwise_loss(embeddings, labels, margin=1.0):
        loss, count = 0.0, 0
        for i in range(len(embeddings)):
            for j in range(i + 1, len(embeddings)):
                d = (embeddings[i] - embeddings[j]).pow(2).sum()
                if labels[i] == labels[j]:
                    loss = loss + d
                else:
                    loss = loss + F.relu(margin - d)
                count += 1
        return loss / max(count, 1)

    wrong = pairwise_loss

    def pairwise_loss(embeddings, labels, margin=1.0):
        i, j = torch.triu_indices(len(embeddings), len(embeddings), 1, device=embeddings.device)
        d = (embeddings[i] - embeddings[j]).pow(2).sum(1)
        same = labels[i] == labels[j]
        return torch.where(same, d, F.relu(margin - d)).sum() / max(len(d), 1)

    return (
        wrong,
        pairwise_loss,
        lambda: (
            torch.randn(12, 4, requires_grad=True),
            torch.randint(0, 3, (12,)),
        ),
    )


@mistake("LP501", "LP502")
def weights_looked_up_one_by_one():
    """The weight of every label is appended to a list."""

    def weighted_ce(logits, labels, class_weights):
        weights = []
        for label in labels:
            weights.append(class_weights[label.item()])  # noqa: PERF401 - this is the mistake
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (losses * torch.stack(weights)).mean()

    wrong = weighted_ce

    def weighted_ce(logits, labels, class_weights):
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (losses * class_weights[labels]).mean()

    return (
        wrong,
        weighted_ce,
        lambda: (
            torch.randn(32, 5, requires_grad=True),
            torch.randint(0, 5, (32,)),
            torch.rand(5) + 0.5,
        ),
    )


@mistake("LP408")
def view_after_permute():
    """`view` cannot flatten what `permute` has put out of order."""

    class SegCrossEntropy(nn.Module):
        def forward(self, logits, target):
            c = logits.shape[1]
            logits = logits.permute(0, 2, 3, 1).view(-1, c)
            return F.cross_entropy(logits, target.view(-1))

    wrong = SegCrossEntropy()

    class SegCrossEntropy(nn.Module):
        def forward(self, logits, target):
            c = logits.shape[1]
            logits = logits.permute(0, 2, 3, 1).reshape(-1, c)
            return F.cross_entropy(logits, target.reshape(-1))

    return (
        wrong,
        SegCrossEntropy(),
        lambda: (
            torch.randn(2, 3, 4, 5, requires_grad=True),
            torch.randint(0, 3, (2, 4, 5)),
        ),
    )


@mistake("LP408")
def one_minus_a_boolean_mask():
    """`1 - mask` is an error since masks are boolean.

    https://github.com/Cysu/open-reid/issues/18
    """

    def triplet_hard_loss(features, labels, margin=0.3):
        dist = (features[:, None] - features[None]).pow(2).sum(-1)
        mask = labels[:, None] == labels[None]
        hardest_pos = (dist * mask).max(1).values
        hardest_neg = (dist + 1e6 * mask)[1 - mask].view(len(labels), -1).min(1).values
        return F.relu(hardest_pos - hardest_neg + margin).mean()

    wrong = triplet_hard_loss

    def triplet_hard_loss(features, labels, margin=0.3):
        dist = (features[:, None] - features[None]).pow(2).sum(-1)
        mask = labels[:, None] == labels[None]
        hardest_pos = (dist * mask).max(1).values
        hardest_neg = (dist + 1e6 * mask).min(1).values
        return F.relu(hardest_pos - hardest_neg + margin).mean()

    return (
        wrong,
        triplet_hard_loss,
        lambda: (
            torch.randn(8, 4, requires_grad=True),
            torch.arange(8) % 4,
        ),
    )


@mistake("LP403")
def warm_up_inside_the_loss():
    """Every call raises the weight, validation included."""

    class AnnealedVAELoss(nn.Module):
        def __init__(self, beta=0.0, step=0.01):
            super().__init__()
            self.beta, self.step = beta, step

        def forward(self, recon, x, mu, logvar):
            kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
            self.beta = min(1.0, self.beta + self.step)
            return F.mse_loss(recon, x, reduction="sum") / len(x) + self.beta * kl

    wrong = AnnealedVAELoss()

    class AnnealedVAELoss(nn.Module):
        def __init__(self, beta=0.01):
            super().__init__()
            self.beta = beta

        def forward(self, recon, x, mu, logvar):
            kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
            return F.mse_loss(recon, x, reduction="sum") / len(x) + self.beta * kl

    return (
        wrong,
        AnnealedVAELoss(),
        lambda: (
            torch.randn(6, 5, requires_grad=True),
            torch.randn(6, 5),
            torch.randn(6, 2, requires_grad=True),
            torch.randn(6, 2, requires_grad=True),
        ),
    )


@mistake("LP403")
def total_loss_with_its_graph():
    """A running total of the loss keeps the graph of every step."""

    class TrackedLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.total_loss, self.calls = 0.0, 0

        def forward(self, output, target):
            loss = F.smooth_l1_loss(output, target)
            self.total_loss += loss
            self.calls += 1
            return loss

    wrong = TrackedLoss()

    class TrackedLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.total_loss, self.calls = 0.0, 0

        def forward(self, output, target):
            loss = F.smooth_l1_loss(output, target)
            self.total_loss += loss.item()
            self.calls += 1
            return loss

    return wrong, TrackedLoss(), lambda: (torch.randn(6, 3, requires_grad=True), torch.randn(6, 3))


@mistake("LP407")
def identity_on_the_cpu():
    """The mask of the diagonal is made on the CPU."""

    def clip_style_loss(image_emb, text_emb):
        image_emb, text_emb = F.normalize(image_emb, dim=1), F.normalize(text_emb, dim=1)
        logits = image_emb @ text_emb.t() / 0.07
        labels = torch.arange(len(logits))
        return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels))

    wrong = clip_style_loss

    def clip_style_loss(image_emb, text_emb):
        image_emb, text_emb = F.normalize(image_emb, dim=1), F.normalize(text_emb, dim=1)
        logits = image_emb @ text_emb.t() / 0.07
        labels = torch.arange(len(logits), device=logits.device)
        return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels))

    return (
        wrong,
        clip_style_loss,
        lambda: (
            torch.randn(6, 8, requires_grad=True),
            torch.randn(6, 8, requires_grad=True),
        ),
    )


@mistake("LP110")
def margin_never_read():
    """The margin is taken by the constructor, and the hinge has its own number."""

    class RankingLoss(nn.Module):
        def __init__(self, margin=0.2):
            super().__init__()
            self.margin = margin

        def forward(self, positive, negative):
            return torch.clamp(0.2 + negative - positive, min=0).mean()

    wrong = RankingLoss()

    class RankingLoss(nn.Module):
        def __init__(self, margin=0.2):
            super().__init__()
            self.margin = margin

        def forward(self, positive, negative):
            return torch.clamp(self.margin + negative - positive, min=0).mean()

    return (
        wrong,
        RankingLoss(),
        lambda: (
            torch.randn(8, requires_grad=True),
            torch.randn(8, requires_grad=True),
        ),
    )


@mistake("LP405", "LP111")
def list_net_of_a_sorted_list():
    """Discounts follow the place in the batch, and nothing sorts it by score."""

    def approx_dcg_loss(scores, relevance):
        discounts = 1 / torch.log2(torch.arange(len(scores), device=scores.device) + 2.0)
        return -(torch.softmax(scores, 0) * relevance * discounts).sum()

    wrong = approx_dcg_loss

    def approx_dcg_loss(scores, relevance):
        rank = torch.sigmoid((scores[None, :] - scores[:, None]) / 0.1).sum(1) - 0.5
        return -(relevance / torch.log2(rank + 2.0)).sum()

    return wrong, approx_dcg_loss, lambda: (torch.randn(10, requires_grad=True), torch.rand(10))


@mistake("LP404")
def noise_on_the_targets():
    """The labels are disturbed afresh in every call, validation included."""

    class NoisyBCE(nn.Module):
        def forward(self, logits, targets):
            targets = (targets + 0.05 * torch.rand_like(targets)).clamp(0, 1)
            return F.binary_cross_entropy_with_logits(logits, targets)

    wrong = NoisyBCE()

    class NoisyBCE(nn.Module):
        def forward(self, logits, targets):
            targets = 0.95 * targets + 0.025
            return F.binary_cross_entropy_with_logits(logits, targets)

    return (
        wrong,
        NoisyBCE(),
        lambda: (
            torch.randn(8, requires_grad=True),
            torch.randint(0, 2, (8,)).float(),
        ),
    )


@mistake("LP109", "LP408")
def integer_labels_for_binary_cross_entropy():
    """Labels come as integers, and the binary cross entropy takes floats."""

    class WeightedBCE(nn.Module):
        def __init__(self, pos_weight=3.0):
            super().__init__()
            self.register_buffer("pos_weight", torch.tensor(pos_weight))

        def forward(self, logits, labels):
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.pos_weight)

    wrong = WeightedBCE()

    class WeightedBCE(nn.Module):
        def __init__(self, pos_weight=3.0):
            super().__init__()
            self.register_buffer("pos_weight", torch.tensor(pos_weight))

        def forward(self, logits, labels):
            labels = labels.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.pos_weight)

    return (
        wrong,
        WeightedBCE(),
        lambda: (
            torch.randn(8, requires_grad=True),
            torch.randint(0, 2, (8,)),
        ),
    )
