"""The losses of pytorch-toolbelt."""

from __future__ import annotations

from typing import Any

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries
from benchmarks.libraries.stand_ins import stand_ins

# Its drawing and its boxes want OpenCV and torchvision.
with stand_ins("cv2", "torchvision", "torchvision.ops"):
    from pytorch_toolbelt import losses as toolbelt

ENTRIES = Entries()
add = ENTRIES.add


def classes(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(9, 5)), d.labels(5, 9)


def segmentation(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 3, 6, 6)), d.labels(3, 2, 6, 6)


def binary(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 1, 6, 6)), d.bits(2, 1, 6, 6)


def regression(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(7, 3)), d.normal(7, 3)


add("DiceLoss", lambda: toolbelt.DiceLoss("multiclass"), segmentation)
add("JaccardLoss", lambda: toolbelt.JaccardLoss("multiclass"), segmentation)
add(
    "LovaszLoss",
    toolbelt.LovaszLoss,
    lambda d: (wanted(d.distributions(2, 3, 6, 6)), d.labels(3, 2, 6, 6)),
)
add("BinaryLovaszLoss", toolbelt.BinaryLovaszLoss, binary)
add("BinaryFocalLoss", toolbelt.BinaryFocalLoss, binary)
add("CrossEntropyFocalLoss", toolbelt.CrossEntropyFocalLoss, segmentation)
add("FocalCosineLoss", toolbelt.FocalCosineLoss, classes)
add("QualityFocalLoss", toolbelt.QualityFocalLoss, binary)
add("BalancedBCEWithLogitsLoss", toolbelt.BalancedBCEWithLogitsLoss, binary)
add("SoftBCEWithLogitsLoss", toolbelt.SoftBCEWithLogitsLoss, binary)
add("SoftCrossEntropyLoss", lambda: toolbelt.SoftCrossEntropyLoss(smooth_factor=0.1), segmentation)
add("SoftF1Loss", toolbelt.SoftF1Loss, classes)
add("BinarySoftF1Loss", toolbelt.BinarySoftF1Loss, lambda d: (wanted(d.normal(12)), d.bits(12)))
add("BiTemperedLogisticLoss", lambda: toolbelt.BiTemperedLogisticLoss(t1=0.8, t2=1.2), classes)
add(
    "BinaryBiTemperedLogisticLoss",
    lambda: toolbelt.BinaryBiTemperedLogisticLoss(t1=0.8, t2=1.2),
    binary,
)
add("WingLoss", toolbelt.WingLoss, regression)
add("LogCoshLoss", toolbelt.LogCoshLoss, regression)
