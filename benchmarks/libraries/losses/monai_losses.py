"""The losses of MONAI, but for the one that downloads a network (`PerceptualLoss`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai import losses as monai
from torch import Tensor

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries

ENTRIES = Entries()
add = ENTRIES.add
CLASS_DISTANCES = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.4], [1.0, 0.4, 0.0]])


def multiclass(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 3, 6, 6)), d.one_hot(3, 2, 6, 6)


def binary(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 1, 8, 8)), d.bits(2, 1, 8, 8)


def two_class_probabilities(d: Draw) -> tuple[Any, ...]:
    return wanted(d.distributions(1, 2, 12, 12)), d.one_hot(2, 1, 12, 12)


def images(d: Draw) -> tuple[Any, ...]:
    return wanted(d.uniform(2, 1, 10, 10)), d.uniform(2, 1, 10, 10)


def boxes(d: Draw) -> tuple[Any, ...]:
    def drawn() -> Tensor:
        corner = 5 * d.uniform(4, 2)
        return torch.cat([corner, corner + 2 + 3 * d.uniform(4, 2)], dim=1)

    return wanted(drawn()), drawn()


def discriminator_on_real() -> Callable[[Tensor], Tensor]:
    criterion = monai.PatchAdversarialLoss(criterion="least_squares")

    def loss(scores: Tensor) -> Tensor:
        value: Tensor = criterion(scores, target_is_real=True, for_discriminator=True)
        return value

    return loss


def sure_of_shrinkage() -> Callable[[Tensor, Tensor], Tensor]:
    criterion = monai.SURELoss()

    def shrink(image: Tensor) -> Tensor:
        return 0.7 * image

    def loss(image: Tensor, measured: Tensor) -> Tensor:
        value: Tensor = criterion(shrink, image, measured)
        return value

    return loss


def two_resolutions() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    criterion = monai.DeepSupervisionLoss(monai.DiceLoss(sigmoid=True))

    def loss(fine: Tensor, coarse: Tensor, target: Tensor) -> Tensor:
        value: Tensor = criterion([fine, coarse], target)
        return value

    return loss


add("DiceLoss", lambda: monai.DiceLoss(softmax=True), multiclass)
add("DiceLoss, sigmoid", lambda: monai.DiceLoss(sigmoid=True), binary)
add(
    "DiceLoss, squared, batch",
    lambda: monai.DiceLoss(softmax=True, squared_pred=True, batch=True),
    multiclass,
)
add(
    "MaskedDiceLoss",
    lambda: monai.MaskedDiceLoss(sigmoid=True),
    lambda d: (*binary(d), d.bits(2, 1, 8, 8, share=0.8)),
)
add("GeneralizedDiceLoss", lambda: monai.GeneralizedDiceLoss(softmax=True), multiclass)
add(
    "GeneralizedWassersteinDiceLoss",
    lambda: monai.GeneralizedWassersteinDiceLoss(CLASS_DISTANCES),
    lambda d: (wanted(d.normal(2, 3, 6, 6)), d.labels(3, 2, 1, 6, 6)),
)
add("DiceCELoss", lambda: monai.DiceCELoss(softmax=True), multiclass)
add("DiceFocalLoss", lambda: monai.DiceFocalLoss(sigmoid=True), binary)
add("GeneralizedDiceFocalLoss", lambda: monai.GeneralizedDiceFocalLoss(softmax=True), multiclass)
add("FocalLoss", lambda: monai.FocalLoss(gamma=2.0), binary)
add("FocalLoss, softmax", lambda: monai.FocalLoss(use_softmax=True, alpha=0.3), multiclass)
add("TverskyLoss", lambda: monai.TverskyLoss(softmax=True, alpha=0.3, beta=0.7), multiclass)
add("SoftclDiceLoss", monai.SoftclDiceLoss, two_class_probabilities)
add("SoftDiceclDiceLoss", monai.SoftDiceclDiceLoss, two_class_probabilities)
add(
    "AsymmetricUnifiedFocalLoss",
    monai.AsymmetricUnifiedFocalLoss,
    lambda d: (wanted(d.normal(2, 2, 6, 6)), d.one_hot(2, 2, 6, 6)),
)
add("BendingEnergyLoss", monai.BendingEnergyLoss, lambda d: (wanted(d.normal(1, 3, 6, 6, 6)),))
add("DiffusionLoss", monai.DiffusionLoss, lambda d: (wanted(d.normal(1, 3, 5, 5, 5)),))
add(
    "LocalNormalizedCrossCorrelationLoss",
    lambda: monai.LocalNormalizedCrossCorrelationLoss(spatial_dims=2, kernel_size=3),
    images,
)
add("GlobalMutualInformationLoss", lambda: monai.GlobalMutualInformationLoss(num_bins=8), images)
add("SSIMLoss", lambda: monai.SSIMLoss(spatial_dims=2, win_size=5), images)
add("ContrastiveLoss", monai.ContrastiveLoss, lambda d: (wanted(d.normal(6, 8)), d.normal(6, 8)))
add(
    "BarlowTwinsLoss",
    monai.BarlowTwinsLoss,
    lambda d: (wanted(d.normal(8, 4)), wanted(d.normal(8, 4))),
)
add("HausdorffDTLoss", lambda: monai.HausdorffDTLoss(sigmoid=True), binary)
add("LogHausdorffDTLoss", lambda: monai.LogHausdorffDTLoss(sigmoid=True), binary)
add("PatchAdversarialLoss", discriminator_on_real, lambda d: (wanted(d.normal(2, 1, 4, 4)),))
add("BoxGIoULoss", monai.BoxGIoULoss, boxes)
add(
    "NACLLoss",
    lambda: monai.NACLLoss(classes=3, dim=2, kernel_size=3),
    lambda d: (wanted(d.normal(2, 3, 6, 6)), d.labels(3, 2, 6, 6)),
)
add("MCCLoss", lambda: monai.MCCLoss(softmax=True), multiclass)
add("AUCMLoss", monai.AUCMLoss, lambda d: (wanted(d.normal(10, 1)), d.bits(10, 1)))
add("BoundaryLoss", lambda: monai.BoundaryLoss(softmax=True), multiclass)
add(
    "JukeboxLoss",
    lambda: monai.JukeboxLoss(spatial_dims=2),
    lambda d: (wanted(d.normal(1, 1, 8, 8)), d.normal(1, 1, 8, 8)),
)
add(
    "SURELoss",
    sure_of_shrinkage,
    lambda d: (wanted(d.normal(1, 1, 6, 6)), d.normal(1, 1, 6, 6)),
)
add(
    "MultiScaleLoss",
    lambda: monai.MultiScaleLoss(monai.DiceLoss(sigmoid=True), scales=[0, 1]),
    binary,
)
add(
    "DeepSupervisionLoss",
    two_resolutions,
    lambda d: (
        wanted(d.normal(2, 1, 8, 8)),
        wanted(d.normal(2, 1, 4, 4)),
        d.bits(2, 1, 8, 8),
    ),
)
