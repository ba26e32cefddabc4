"""Averages, axes and shapes that people got wrong, each written again in a few lines."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP105", "LP111", "LP406")
def divided_by_the_negatives():
    """2N rows are summed and divided by 2 (N - 1).

    https://github.com/lucidrains/contrastive-learner/issues/2
    """

    def nt_xent_loss(queries, keys, temperature=0.1):
        b, device = len(queries), queries.device
        projs = F.normalize(torch.cat((queries, keys)), dim=1)
        logits = projs @ projs.t() / temperature
        logits = logits.masked_fill(torch.eye(2 * b, dtype=torch.bool, device=device), -1e9)
        labels = torch.cat((torch.arange(b) + b, torch.arange(b))).to(device)
        return F.cross_entropy(logits, labels, reduction="sum") / (2 * (b - 1))

    wrong = nt_xent_loss

    def nt_xent_loss(queries, keys, temperature=0.1):
        b, device = len(queries), queries.device
        projs = F.normalize(torch.cat((queries, keys)), dim=1)
        logits = projs @ projs.t() / temperature
        logits = logits.masked_fill(torch.eye(2 * b, dtype=torch.bool, device=device), -1e9)
        labels = torch.cat((torch.arange(b) + b, torch.arange(b))).to(device)
        return F.cross_entropy(logits, labels, reduction="sum") / (2 * b)

    return (
        wrong,
        nt_xent_loss,
        lambda: (
            torch.randn(8, 6, requires_grad=True),
            torch.randn(8, 6, requires_grad=True),
        ),
    )


@mistake("LP105", "LP111")
def masked_mean_over_all_steps():
    """Padding is zeroed, and the mean counts it.

    https://github.com/d2l-ai/d2l-en/issues/2076
    """

    class MaskedSoftmaxCELoss(nn.Module):
        def forward(self, pred, label, valid_len):
            steps = torch.arange(label.shape[1], device=label.device)
            weights = (steps[None, :] < valid_len[:, None]).to(pred.dtype)
            loss = F.cross_entropy(pred.permute(0, 2, 1), label, reduction="none")
            return (loss * weights).mean(dim=1).mean()

    wrong = MaskedSoftmaxCELoss()

    class MaskedSoftmaxCELoss(nn.Module):
        def forward(self, pred, label, valid_len):
            steps = torch.arange(label.shape[1], device=label.device)
            weights = (steps[None, :] < valid_len[:, None]).to(pred.dtype)
            loss = F.cross_entropy(pred.permute(0, 2, 1), label, reduction="none")
            return (loss * weights).sum() / weights.sum().clamp(min=1)

    return (
        wrong,
        MaskedSoftmaxCELoss(),
        lambda: (
            torch.randn(3, 7, 5, requires_grad=True),
            torch.randint(0, 5, (3, 7)),
            torch.tensor([7, 4, 2]),
        ),
    )


@mistake("LP105", "LP111")
def denominator_of_the_other_mask():
    """What is masked is zeroed, and the sum is divided by how much is masked.

    https://github.com/lucidrains/voicebox-pytorch/issues/6
    """

    def flow_loss(pred, target, mask):
        loss = F.mse_loss(pred, target, reduction="none").mean(-1)
        loss = loss.masked_fill(mask, 0.0)
        den = mask.sum(dim=-1).clamp(min=1e-5)
        return (loss.sum(dim=-1) / den).mean()

    wrong = flow_loss

    def flow_loss(pred, target, mask):
        loss = F.mse_loss(pred, target, reduction="none").mean(-1)
        loss = loss.masked_fill(mask, 0.0)
        den = (~mask).sum(dim=-1).clamp(min=1e-5)
        return (loss.sum(dim=-1) / den).mean()

    return (
        wrong,
        flow_loss,
        lambda: (
            torch.randn(4, 10, 3, requires_grad=True),
            torch.randn(4, 10, 3),
            torch.rand(4, 10) < 0.3,
        ),
    )


@mistake("LP105", "LP111")
def mask_counts_fewer_than_it_covers():
    """The mask spreads over the relations, and its sum counts tokens only.

    https://github.com/longlongman/CasRel-pytorch-reimplement/issues/15
    """

    def tagging_loss(logits, labels, mask):
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        mask = mask.unsqueeze(-1)
        return torch.sum(loss * mask) / torch.sum(mask)

    wrong = tagging_loss

    def tagging_loss(logits, labels, mask):
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        mask = mask.unsqueeze(-1).expand_as(loss)
        return torch.sum(loss * mask) / torch.sum(mask)

    def inputs():
        mask = (torch.arange(8) < torch.tensor([[8], [5], [3]])).float()
        return (
            torch.randn(3, 8, 4, requires_grad=True),
            torch.randint(0, 2, (3, 8, 4)).float(),
            mask,
        )

    return wrong, tagging_loss, inputs


@mistake("LP105", "LP111")
def total_variation_of_the_batch():
    """The variation is summed over images and divided by the pixels of one."""

    class TVLoss(nn.Module):
        """Total variation of an image, averaged."""

        def forward(self, x):
            n, c, h, w = x.shape
            h_tv = torch.pow(x[:, :, 1:, :] - x[:, :, :-1, :], 2).sum()
            w_tv = torch.pow(x[:, :, :, 1:] - x[:, :, :, :-1], 2).sum()
            return h_tv / (c * (h - 1) * w) + w_tv / (c * h * (w - 1))

    wrong = TVLoss()

    class TVLoss(nn.Module):
        """Total variation of an image, averaged."""

        def forward(self, x):
            n, c, h, w = x.shape
            h_tv = torch.pow(x[:, :, 1:, :] - x[:, :, :-1, :], 2).sum()
            w_tv = torch.pow(x[:, :, :, 1:] - x[:, :, :, :-1], 2).sum()
            return (h_tv / (c * (h - 1) * w) + w_tv / (c * h * (w - 1))) / n

    return wrong, TVLoss(), lambda: (torch.rand(3, 2, 6, 7, requires_grad=True),)


@mistake("LP105", "LP111")
def one_term_per_batch_and_one_per_box():
    """The box term is divided by the boxes, the class term by the batch squared."""

    class MultiBoxLoss(nn.Module):
        def forward(self, conf, loc, labels, boxes):
            n = conf.shape[0]
            loss_c = F.cross_entropy(conf.transpose(1, 2), labels, reduction="sum") / (n * n)
            loss_l = F.smooth_l1_loss(loc, boxes, reduction="sum") / n
            return loss_c + loss_l

    wrong = MultiBoxLoss()

    class MultiBoxLoss(nn.Module):
        def forward(self, conf, loc, labels, boxes):
            n = conf.shape[0]
            loss_c = F.cross_entropy(conf.transpose(1, 2), labels, reduction="sum") / n
            loss_l = F.smooth_l1_loss(loc, boxes, reduction="sum") / n
            return loss_c + loss_l

    return (
        wrong,
        MultiBoxLoss(),
        lambda: (
            torch.randn(4, 6, 3, requires_grad=True),
            torch.randn(4, 6, 4, requires_grad=True),
            torch.randint(0, 3, (4, 6)),
            torch.randn(4, 6, 4),
        ),
    )


@mistake("LP102", "LP105")
def gathered_channel_against_flat_map():
    """What `gather` leaves has a channel of one, and the map has none.

    https://github.com/Project-MONAI/MONAI/issues/4650
    """

    class WassersteinDiceLoss(nn.Module):
        def forward(self, probs, target, alpha):
            distance = 1 - probs.gather(1, target.unsqueeze(1)).squeeze(1)
            weight = alpha[target].unsqueeze(1)
            true_pos = (weight * (1 - distance)).sum()
            total = (weight * (2 - distance)).sum()
            return 1 - 2 * true_pos / (total + 1e-6)

    wrong = WassersteinDiceLoss()

    class WassersteinDiceLoss(nn.Module):
        def forward(self, probs, target, alpha):
            distance = 1 - probs.gather(1, target.unsqueeze(1)).squeeze(1)
            weight = alpha[target]
            true_pos = (weight * (1 - distance)).sum()
            total = (weight * (2 - distance)).sum()
            return 1 - 2 * true_pos / (total + 1e-6)

    return (
        wrong,
        WassersteinDiceLoss(),
        lambda: (
            torch.randn(3, 4, 10).softmax(1).requires_grad_(),
            torch.randint(0, 4, (3, 10)),
            torch.tensor([0.0, 1.0, 2.0, 0.5]),
        ),
    )


@mistake("LP102", "LP105")
def sum_without_keepdim():
    """A sum over the channels has lost its axis when it meets the matte.

    https://github.com/MarcoForte/FBA_Matting/issues/7
    """

    def alpha_loss(alpha, image, fg, bg):
        wanted = ((image - bg) * (fg - bg)).sum(1) / (((fg - bg) ** 2).sum(1) + 0.1)
        return (alpha - wanted).abs().mean()

    wrong = alpha_loss

    def alpha_loss(alpha, image, fg, bg):
        wanted = ((image - bg) * (fg - bg)).sum(1, keepdim=True)
        wanted = wanted / (((fg - bg) ** 2).sum(1, keepdim=True) + 0.1)
        return (alpha - wanted).abs().mean()

    return (
        wrong,
        alpha_loss,
        lambda: (
            torch.rand(3, 1, 5, 5, requires_grad=True),
            *(torch.rand(3, 3, 5, 5) for _ in range(3)),
        ),
    )


@mistake("LP102", "LP111", "LP107")
def quantiles_along_the_target_axis():
    """The quantiles [N] meet errors [B, N, N] on the axis of the targets.

    https://github.com/BY571/QR-DQN/issues/1
    """

    def quantile_huber_loss(quantiles, targets, tau):
        td = targets.unsqueeze(1) - quantiles.unsqueeze(2)
        huber = torch.where(td.abs() <= 1, 0.5 * td**2, td.abs() - 0.5)
        loss = (tau - (td.detach() < 0).to(td.dtype)).abs() * huber
        return loss.sum(1).mean(1).mean()

    wrong = quantile_huber_loss

    def quantile_huber_loss(quantiles, targets, tau):
        td = targets.unsqueeze(1) - quantiles.unsqueeze(2)
        huber = torch.where(td.abs() <= 1, 0.5 * td**2, td.abs() - 0.5)
        loss = (tau[:, None] - (td.detach() < 0).to(td.dtype)).abs() * huber
        return loss.sum(1).mean(1).mean()

    return (
        wrong,
        quantile_huber_loss,
        lambda: (
            torch.randn(4, 5, requires_grad=True),
            torch.randn(4, 5),
            torch.linspace(0.1, 0.9, 5),
        ),
    )


@mistake("LP102", "LP105")
def depth_map_without_its_channel():
    """[N, 1, H, W] meets [N, H, W]: every image is compared with all.

    https://github.com/jiwei0921/CoNet/issues/3
    """

    class DepthLoss(nn.Module):
        def forward(self, pred_depth, depth):
            diff = (pred_depth - depth).abs()
            return torch.where(diff < 1, 0.5 * diff**2, diff - 0.5).mean()

    wrong = DepthLoss()

    class DepthLoss(nn.Module):
        def forward(self, pred_depth, depth):
            diff = (pred_depth - depth.unsqueeze(1)).abs()
            return torch.where(diff < 1, 0.5 * diff**2, diff - 0.5).mean()

    return (
        wrong,
        DepthLoss(),
        lambda: (
            torch.rand(3, 1, 5, 6, requires_grad=True),
            torch.rand(3, 5, 6),
        ),
    )


@mistake("LP102", "LP105")
def values_with_a_column_too_many():
    """The critic gives [N, 1], the returns are [N]."""

    def actor_critic_loss(log_probs, values, returns):
        advantage = returns - values
        policy = -(log_probs * advantage.detach()).mean()
        return policy + 0.5 * advantage.pow(2).mean()

    wrong = actor_critic_loss

    def actor_critic_loss(log_probs, values, returns):
        advantage = returns - values.squeeze(-1)
        policy = -(log_probs * advantage.detach()).mean()
        return policy + 0.5 * advantage.pow(2).mean()

    return (
        wrong,
        actor_critic_loss,
        lambda: (
            (-torch.rand(9)).requires_grad_(),
            torch.randn(9, 1, requires_grad=True),
            torch.randn(9),
        ),
    )


@mistake("LP106", "LP105", "LP111")
def norm_over_the_pixels():
    """The distance to the centre is a norm over pixels where it should be over features.

    https://github.com/klintan/pytorch-lanenet/issues/12
    """

    class VarianceTerm(nn.Module):
        def __init__(self, delta_v=0.5):
            super().__init__()
            self.delta_v = delta_v

        def forward(self, embedding):
            centre = embedding.mean(dim=0)
            distance = torch.norm(embedding - centre, dim=0)
            return F.relu(distance - self.delta_v).pow(2).mean()

    wrong = VarianceTerm()

    class VarianceTerm(nn.Module):
        def __init__(self, delta_v=0.5):
            super().__init__()
            self.delta_v = delta_v

        def forward(self, embedding):
            centre = embedding.mean(dim=0)
            distance = ((embedding - centre).pow(2).sum(1) + 1e-12).sqrt()
            return F.relu(distance - self.delta_v).pow(2).mean()

    return wrong, VarianceTerm(), lambda: (torch.randn(20, 4, requires_grad=True),)


@mistake("LP106", "LP111")
def cosine_along_the_time_axis():
    """The default `dim=1` of the cosine is time in [B, T, D]."""

    class HiddenStateLoss(nn.Module):
        def forward(self, student, teacher):
            return (1 - F.cosine_similarity(student, teacher)).mean()

    wrong = HiddenStateLoss()

    class HiddenStateLoss(nn.Module):
        def forward(self, student, teacher):
            return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()

    return (
        wrong,
        HiddenStateLoss(),
        lambda: (
            torch.randn(3, 6, 5, requires_grad=True),
            torch.randn(3, 6, 5),
        ),
    )


@mistake("LP106", "LP111")
def softmax_over_the_width():
    """The classes of a segmentation are on axis 1, and the softmax is over the last."""

    class SoftDiceLoss(nn.Module):
        def forward(self, logits, onehot):
            p = F.softmax(logits, dim=-1)
            inter = (p * onehot).sum((0, 2, 3))
            total = (p + onehot).sum((0, 2, 3))
            return 1 - ((2 * inter + 1e-5) / (total + 1e-5)).mean()

    wrong = SoftDiceLoss()

    class SoftDiceLoss(nn.Module):
        def forward(self, logits, onehot):
            p = F.softmax(logits, dim=1)
            inter = (p * onehot).sum((0, 2, 3))
            total = (p + onehot).sum((0, 2, 3))
            return 1 - ((2 * inter + 1e-5) / (total + 1e-5)).mean()

    def inputs():
        labels = torch.randint(0, 3, (2, 5, 6))
        onehot = F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
        return torch.randn(2, 3, 5, 6, requires_grad=True), onehot

    return wrong, SoftDiceLoss(), inputs


@mistake("LP106", "LP111")
def class_axis_flattened_with_the_pixels():
    """Logits [N, C, H, W] are reshaped to [-1, C] and one-hot targets are not."""

    def pixel_ce(logits, labels):
        classes = logits.shape[1]
        log_p = F.log_softmax(logits.reshape(-1, classes), dim=1)
        return -log_p.gather(1, labels.reshape(-1, 1)).mean()

    wrong = pixel_ce

    def pixel_ce(logits, labels):
        log_p = F.log_softmax(logits, dim=1)
        return -log_p.gather(1, labels.unsqueeze(1)).mean()

    return (
        wrong,
        pixel_ce,
        lambda: (
            torch.randn(2, 4, 5, 3, requires_grad=True),
            torch.randint(0, 4, (2, 5, 3)),
        ),
    )
