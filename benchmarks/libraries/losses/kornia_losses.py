"""The losses of kornia."""

from __future__ import annotations

from typing import Any

from kornia import losses as kornia

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries

ENTRIES = Entries()
add = ENTRIES.add


def segmentation(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 3, 5, 5)), d.labels(3, 2, 5, 5)


def images(d: Draw) -> tuple[Any, ...]:
    return wanted(d.uniform(2, 2, 9, 9)), d.uniform(2, 2, 9, 9)


def heatmaps(d: Draw) -> tuple[Any, ...]:
    def drawn() -> Any:
        return d.distributions(2, 3, 16, dim=2).view(2, 3, 4, 4)

    return wanted(drawn()), drawn()


def signals(d: Draw) -> tuple[Any, ...]:
    return wanted(d.uniform(5, 30)), d.uniform(5, 30)


add("DiceLoss", kornia.DiceLoss, segmentation)
add("TverskyLoss", lambda: kornia.TverskyLoss(alpha=0.4, beta=0.6), segmentation)
add("FocalLoss", lambda: kornia.FocalLoss(alpha=0.5, reduction="mean"), segmentation)
add(
    "BinaryFocalLossWithLogits",
    lambda: kornia.BinaryFocalLossWithLogits(alpha=0.25, reduction="mean"),
    lambda d: (wanted(d.normal(6, 3)), d.bits(6, 3)),
)
add("LovaszSoftmaxLoss", kornia.LovaszSoftmaxLoss, segmentation)
add(
    "LovaszHingeLoss",
    kornia.LovaszHingeLoss,
    lambda d: (wanted(d.normal(2, 1, 5, 5)), d.labels(2, 2, 5, 5)),
)
add("SSIMLoss", lambda: kornia.SSIMLoss(window_size=5), images)
add(
    "SSIM3DLoss",
    lambda: kornia.SSIM3DLoss(window_size=3),
    lambda d: (wanted(d.uniform(1, 1, 6, 6, 6)), d.uniform(1, 1, 6, 6, 6)),
)
add(
    "MS_SSIMLoss",
    kornia.MS_SSIMLoss,
    lambda d: (wanted(d.uniform(1, 3, 16, 16)), d.uniform(1, 3, 16, 16)),
)
add("PSNRLoss", lambda: kornia.PSNRLoss(max_val=1.0), images)
add("TotalVariation", kornia.TotalVariation, lambda d: (wanted(d.normal(2, 2, 6, 6)),))
add(
    "InverseDepthSmoothnessLoss",
    kornia.InverseDepthSmoothnessLoss,
    lambda d: (wanted(d.uniform(1, 1, 6, 6)), d.uniform(1, 3, 6, 6)),
)
add(
    "HausdorffERLoss",
    lambda: kornia.HausdorffERLoss(k=3),
    lambda d: (wanted(d.normal(2, 3, 6, 6)), d.labels(3, 2, 1, 6, 6)),
)
add(
    "HausdorffERLoss3D",
    lambda: kornia.HausdorffERLoss3D(k=2),
    lambda d: (wanted(d.normal(1, 2, 5, 5, 5)), d.labels(2, 1, 1, 5, 5, 5)),
)
add("CharbonnierLoss", lambda: kornia.CharbonnierLoss(reduction="mean"), images)
add("WelschLoss", lambda: kornia.WelschLoss(reduction="mean"), images)
add("CauchyLoss", lambda: kornia.CauchyLoss(reduction="mean"), images)
add("GemanMcclureLoss", lambda: kornia.GemanMcclureLoss(reduction="mean"), images)
add("js_div_loss_2d", lambda: kornia.js_div_loss_2d, heatmaps)
add("kl_div_loss_2d", lambda: kornia.kl_div_loss_2d, heatmaps)
add("mutual_information_loss", lambda: kornia.mutual_information_loss, signals)
add(
    "normalized_mutual_information_loss",
    lambda: kornia.normalized_mutual_information_loss,
    signals,
)
