"""Options, shapes of the result and overwritten tensors, each written again in a few lines."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP402", "LP401")
def probabilities_clamped_after_the_softmax():
    """`clamp_` overwrites what the softmax has kept for its backward."""

    def nll_loss(logits, target):
        p = F.softmax(logits, dim=1)
        p.clamp_(min=1e-7, max=1 - 1e-7)
        return -torch.log(p.gather(1, target.unsqueeze(1))).mean()

    wrong = nll_loss

    def nll_loss(logits, target):
        return F.nll_loss(F.log_softmax(logits, dim=1), target)

    return (
        wrong,
        nll_loss,
        lambda: (
            torch.randn(6, 4, requires_grad=True),
            torch.randint(0, 4, (6,)),
        ),
    )


@mistake("LP402", "LP401")
def flow_grid_scaled_in_place():
    """The grid of the warp is scaled channel by channel in place.

    https://github.com/aimerykong/predictive-filter-flow/issues/5
    """

    def warp_loss(flow, image, target):
        n, _, h, w = flow.shape
        grid = torch.sigmoid(flow)
        grid[:, 0] = 2 * grid[:, 0] / max(w - 1, 1) - 1
        grid[:, 1] = 2 * grid[:, 1] / max(h - 1, 1) - 1
        warped = F.grid_sample(image, grid.permute(0, 2, 3, 1), align_corners=True)
        return F.l1_loss(warped, target)

    wrong = warp_loss

    def warp_loss(flow, image, target):
        n, _, h, w = flow.shape
        grid = torch.sigmoid(flow)
        scale = torch.tensor([max(w - 1, 1), max(h - 1, 1)], device=flow.device)
        grid = 2 * grid / scale[:, None, None] - 1
        warped = F.grid_sample(image, grid.permute(0, 2, 3, 1), align_corners=True)
        return F.l1_loss(warped, target)

    return (
        wrong,
        warp_loss,
        lambda: (
            torch.randn(2, 2, 4, 5, requires_grad=True),
            torch.rand(2, 1, 4, 5),
            torch.rand(2, 1, 4, 5),
        ),
    )


@mistake("LP402", "LP401")
def ignored_pixels_zeroed_in_the_prediction():
    """The prediction is zeroed in place where the label is to be ignored."""

    def brier_loss(pred, target, ignore):
        prob = torch.sigmoid(pred)
        prob[ignore] = 0
        return F.mse_loss(prob, target * ~ignore, reduction="sum") / (~ignore).sum().clamp(min=1)

    wrong = brier_loss

    def brier_loss(pred, target, ignore):
        prob = torch.sigmoid(pred).masked_fill(ignore, 0)
        return F.mse_loss(prob, target * ~ignore, reduction="sum") / (~ignore).sum().clamp(min=1)

    return (
        wrong,
        brier_loss,
        lambda: (
            torch.randn(3, 6, requires_grad=True),
            torch.rand(3, 6),
            torch.rand(3, 6) < 0.3,
        ),
    )


@mistake("LP401", "LP403")
def ignored_labels_overwritten():
    """Labels of 255 are set to 0 in the caller's tensor: a second pass trains on them."""

    class SegLoss(nn.Module):
        def __init__(self, ignore=255):
            super().__init__()
            self.ignore = ignore

        def forward(self, logits, target):
            valid = target != self.ignore
            target[~valid] = 0
            loss = F.cross_entropy(logits, target, reduction="none")
            return (loss * valid).sum() / valid.sum().clamp(min=1)

    wrong = SegLoss()

    class SegLoss(nn.Module):
        def __init__(self, ignore=255):
            super().__init__()
            self.ignore = ignore

        def forward(self, logits, target):
            valid = target != self.ignore
            loss = F.cross_entropy(logits, target.masked_fill(~valid, 0), reduction="none")
            return (loss * valid).sum() / valid.sum().clamp(min=1)

    def inputs():
        target = torch.randint(0, 3, (2, 4, 5))
        target[0, 0, :3] = 255
        return torch.randn(2, 3, 4, 5, requires_grad=True), target

    return wrong, SegLoss(), inputs


@mistake("LP401", "LP403")
def boxes_converted_in_place():
    """Centre boxes are turned into corners in the caller's tensor."""

    def to_corners(box):
        half = box[:, 2:] / 2
        return torch.cat([box[:, :2] - half, box[:, :2] + half], 1)

    def box_loss(pred, target):
        target[:, :2] -= target[:, 2:] / 2
        target[:, 2:] += target[:, :2]
        return F.l1_loss(to_corners(pred), target)

    wrong = box_loss

    def box_loss(pred, target):
        return F.l1_loss(to_corners(pred), to_corners(target))

    return wrong, box_loss, lambda: (torch.rand(5, 4, requires_grad=True), torch.rand(5, 4))


@mistake("LP104", "LP101")
def sum_gives_the_mean():
    """`reduction="sum"` falls into the last branch, which averages."""

    class SquaredLogLoss(nn.Module):
        def __init__(self, reduction="mean"):
            super().__init__()
            self.reduction = reduction

        def forward(self, pred, actual):
            loss = (torch.log1p(pred) - torch.log1p(actual)) ** 2
            if self.reduction == "none":
                return loss
            return loss.mean()

    wrong = SquaredLogLoss()

    class SquaredLogLoss(nn.Module):
        def __init__(self, reduction="mean"):
            super().__init__()
            self.reduction = reduction

        def forward(self, pred, actual):
            loss = (torch.log1p(pred) - torch.log1p(actual)) ** 2
            if self.reduction == "none":
                return loss
            return loss.sum() if self.reduction == "sum" else loss.mean()

    return wrong, SquaredLogLoss(), lambda: (torch.rand(8, requires_grad=True), torch.rand(8))


@mistake("LP104", "LP101")
def size_average_has_no_effect():
    """`size_average=False` was meant to sum, and both branches average."""

    class FocalLoss2d(nn.Module):
        def __init__(self, gamma=2, size_average=True):
            super().__init__()
            self.gamma = gamma
            self.size_average = size_average

        def forward(self, input, target):
            logpt = -F.cross_entropy(input, target, reduction="none")
            loss = -((1 - logpt.exp()) ** self.gamma) * logpt
            if self.size_average:
                return loss.mean()
            return loss.sum() / loss.numel()

    wrong = FocalLoss2d()

    class FocalLoss2d(nn.Module):
        def __init__(self, gamma=2, size_average=True):
            super().__init__()
            self.gamma = gamma
            self.size_average = size_average

        def forward(self, input, target):
            logpt = -F.cross_entropy(input, target, reduction="none")
            loss = -((1 - logpt.exp()) ** self.gamma) * logpt
            if self.size_average:
                return loss.mean()
            return loss.sum()

    return (
        wrong,
        FocalLoss2d(),
        lambda: (
            torch.randn(2, 3, 4, 4, requires_grad=True),
            torch.randint(0, 3, (2, 4, 4)),
        ),
    )


@mistake("LP104", "LP101")
def reduction_not_handed_on():
    """The option is kept and the inner criterion is built without it."""

    class SmoothedBCE(nn.Module):
        def __init__(self, smoothing=0.1, reduction="mean"):
            super().__init__()
            self.smoothing = smoothing
            self.reduction = reduction
            self.bce = nn.BCEWithLogitsLoss()

        def forward(self, logits, targets):
            targets = targets * (1 - self.smoothing) + 0.5 * self.smoothing
            return self.bce(logits, targets)

    wrong = SmoothedBCE()

    class SmoothedBCE(nn.Module):
        def __init__(self, smoothing=0.1, reduction="mean"):
            super().__init__()
            self.smoothing = smoothing
            self.bce = nn.BCEWithLogitsLoss(reduction=reduction)

        def forward(self, logits, targets):
            targets = targets * (1 - self.smoothing) + 0.5 * self.smoothing
            return self.bce(logits, targets)

    return (
        wrong,
        SmoothedBCE(),
        lambda: (
            torch.randn(8, 3, requires_grad=True),
            torch.randint(0, 2, (8, 3)).float(),
        ),
    )


@mistake("LP101", "LP104")
def mean_over_one_axis_only():
    """The per-class losses are averaged over the classes and not over the batch."""

    class MultiLabelFocal(nn.Module):
        def forward(self, logits, targets):
            bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            loss = (1 - torch.exp(-bce)) ** 2 * bce
            return loss.mean(dim=1)

    wrong = MultiLabelFocal()

    class MultiLabelFocal(nn.Module):
        def forward(self, logits, targets):
            bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            loss = (1 - torch.exp(-bce)) ** 2 * bce
            return loss.mean()

    return (
        wrong,
        MultiLabelFocal(),
        lambda: (
            torch.randn(6, 4, requires_grad=True),
            torch.randint(0, 2, (6, 4)).float(),
        ),
    )


@mistake("LP101", "LP104")
def triplet_per_anchor():
    """The hinge of every triplet is returned as it is."""

    def triplet_loss(anchor, positive, negative, margin=1.0):
        d_ap = (anchor - positive).pow(2).sum(1)
        d_an = (anchor - negative).pow(2).sum(1)
        return torch.clamp(d_ap - d_an + margin, min=0.0)

    wrong = triplet_loss

    def triplet_loss(anchor, positive, negative, margin=1.0):
        d_ap = (anchor - positive).pow(2).sum(1)
        d_an = (anchor - negative).pow(2).sum(1)
        return torch.clamp(d_ap - d_an + margin, min=0.0).mean()

    return wrong, triplet_loss, lambda: tuple(torch.randn(6, 4).requires_grad_() for _ in range(3))
