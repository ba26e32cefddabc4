"""Graphs that people cut without knowing, each written again in a few lines."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP201", "LP204")
def image_gradient_of_the_argmax():
    """The mask is the class of largest score: nothing flows back through an index.

    https://github.com/wonbeomjang/mobile-hair-segmentation-pytorch/issues/3
    """

    def edge(image):
        dx = image[:, :, :, 1:] - image[:, :, :, :-1]
        dy = image[:, :, 1:, :] - image[:, :, :-1, :]
        return dx.abs(), dy.abs()

    class ImageGradientLoss(nn.Module):
        def forward(self, pred, gray_image):
            size = pred.size()
            mask = pred.argmax(1).view(size[0], 1, size[2], size[3]).float()
            (mx, my), (gx, gy) = edge(mask), edge(gray_image)
            return (mx * (1 - gx)).mean() + (my * (1 - gy)).mean()

    wrong = ImageGradientLoss()

    class ImageGradientLoss(nn.Module):
        def forward(self, pred, gray_image):
            mask = pred.softmax(1)[:, 1:2]
            (mx, my), (gx, gy) = edge(mask), edge(gray_image)
            return (mx * (1 - gx)).mean() + (my * (1 - gy)).mean()

    return (
        wrong,
        ImageGradientLoss(),
        lambda: (
            torch.randn(2, 2, 6, 6, requires_grad=True),
            torch.rand(2, 1, 6, 6),
        ),
    )


@mistake("LP201", "LP204")
def losses_rebuilt_as_a_tensor():
    """The losses of the heads are put into a new tensor, and a new leaf starts there."""

    def multi_head_loss(out1, out2, target):
        losses = [F.mse_loss(out1, target), F.l1_loss(out2, target)]
        return torch.tensor(losses, requires_grad=True).mean()

    wrong = multi_head_loss

    def multi_head_loss(out1, out2, target):
        losses = [F.mse_loss(out1, target), F.l1_loss(out2, target)]
        return torch.stack(losses).mean()

    return (
        wrong,
        multi_head_loss,
        lambda: (
            torch.randn(6, 3, requires_grad=True),
            torch.randn(6, 3, requires_grad=True),
            torch.randn(6, 3),
        ),
    )


@mistake("LP201")
def adversarial_term_without_gradient():
    """The judgement of the discriminator is computed under `no_grad`.

    https://github.com/JinyuanLiu-CV/TarDAL/issues/4
    """

    class FusionLoss(nn.Module):
        def __init__(self, weight=0.1):
            super().__init__()
            torch.manual_seed(0)
            self.weight = weight
            self.dis = nn.Conv2d(1, 1, 3)

        def forward(self, fused, source):
            with torch.no_grad():
                adversarial = -self.dis(fused).mean()
            return F.l1_loss(fused, source) + self.weight * adversarial

    wrong = FusionLoss()

    class FusionLoss(nn.Module):
        def __init__(self, weight=0.1):
            super().__init__()
            torch.manual_seed(0)
            self.weight = weight
            self.dis = nn.Conv2d(1, 1, 3)

        def forward(self, fused, source):
            adversarial = -self.dis(fused).mean()
            return F.l1_loss(fused, source) + self.weight * adversarial

    return (
        wrong,
        FusionLoss(),
        lambda: (
            torch.rand(2, 1, 6, 6, requires_grad=True),
            torch.rand(2, 1, 6, 6),
        ),
    )


@mistake("LP201")
def smoothness_of_the_data_attribute():
    """`.data` is used to save memory: the smoothness term has no gradient."""

    def depth_loss(pred, gt):
        d = pred.data
        smooth = (d[:, :, :, 1:] - d[:, :, :, :-1]).abs().mean()
        return (pred - gt).abs().mean() + 0.5 * smooth

    wrong = depth_loss

    def depth_loss(pred, gt):
        smooth = (pred[:, :, :, 1:] - pred[:, :, :, :-1]).abs().mean()
        return (pred - gt).abs().mean() + 0.5 * smooth

    return (
        wrong,
        depth_loss,
        lambda: (
            torch.rand(2, 1, 5, 6, requires_grad=True),
            torch.rand(2, 1, 5, 6),
        ),
    )


@mistake("LP201", "LP204")
def counts_are_rounded():
    """The predicted counts are rounded before they are compared."""

    def count_loss(density_map, true_count):
        count = torch.round(density_map.sum(dim=(1, 2)))
        return F.mse_loss(count, true_count)

    wrong = count_loss

    def count_loss(density_map, true_count):
        return F.mse_loss(density_map.sum(dim=(1, 2)), true_count)

    return (
        wrong,
        count_loss,
        lambda: (
            (torch.rand(4, 6, 6)).requires_grad_(),
            torch.tensor([12.0, 20.0, 18.0, 9.0]),
        ),
    )


@mistake("LP201", "LP204")
def f1_of_hard_decisions():
    """The F1 score counts decisions at one half, which have no slope."""

    class F1Loss(nn.Module):
        def forward(self, logits, y_true):
            y_pred = (torch.sigmoid(logits) > 0.5).float()
            tp = (y_true * y_pred).sum()
            fp = ((1 - y_true) * y_pred).sum()
            fn = (y_true * (1 - y_pred)).sum()
            return 1 - 2 * tp / (2 * tp + fp + fn + 1e-7)

    wrong = F1Loss()

    class F1Loss(nn.Module):
        def forward(self, logits, y_true):
            y_pred = torch.sigmoid(logits)
            tp = (y_true * y_pred).sum()
            fp = ((1 - y_true) * y_pred).sum()
            fn = (y_true * (1 - y_pred)).sum()
            return 1 - 2 * tp / (2 * tp + fp + fn + 1e-7)

    return (
        wrong,
        F1Loss(),
        lambda: (
            torch.randn(16, requires_grad=True),
            torch.randint(0, 2, (16,)).float(),
        ),
    )


@mistake("LP201", "LP204")
def keypoints_by_argmax():
    """Coordinates are read off the heatmap by `argmax`.

    https://github.com/LZGMatrix/BOP19_CDPN_2019ICCV/issues/4
    """

    def keypoint_loss(heatmap, keypoints):
        n, k, h, w = heatmap.shape
        index = heatmap.view(n, k, -1).argmax(-1)
        coords = torch.stack([index % w, torch.div(index, w, rounding_mode="floor")], -1).float()
        return (coords - keypoints).pow(2).sum(-1).mean()

    wrong = keypoint_loss

    def keypoint_loss(heatmap, keypoints):
        n, k, h, w = heatmap.shape
        p = heatmap.view(n, k, -1).softmax(-1).view(n, k, h, w)
        x = (p.sum(2) * torch.arange(w, device=p.device)).sum(-1)
        y = (p.sum(3) * torch.arange(h, device=p.device)).sum(-1)
        return (torch.stack([x, y], -1) - keypoints).pow(2).sum(-1).mean()

    return (
        wrong,
        keypoint_loss,
        lambda: (
            torch.randn(2, 3, 6, 5, requires_grad=True),
            torch.rand(2, 3, 2) * 4,
        ),
    )


@mistake("LP201")
def spectrum_by_numpy():
    """The spectral distance is computed by numpy and added as a number."""

    def audio_loss(pred, target):
        spectrum = np.abs(np.fft.rfft(pred.detach().numpy()))
        wanted = np.abs(np.fft.rfft(target.numpy()))
        return F.l1_loss(pred, target) + float(np.mean((spectrum - wanted) ** 2))

    wrong = audio_loss

    def audio_loss(pred, target):
        spectrum, wanted = torch.fft.rfft(pred).abs(), torch.fft.rfft(target).abs()
        return F.l1_loss(pred, target) + ((spectrum - wanted) ** 2).mean()

    return wrong, audio_loss, lambda: (torch.randn(3, 32, requires_grad=True), torch.randn(3, 32))
