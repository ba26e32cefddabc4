"""The losses of segmentation-models-pytorch, without its networks."""

from __future__ import annotations

from typing import Any

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries
from benchmarks.libraries.stand_ins import without_its_init

# The package itself imports timm, torchvision and huggingface_hub.
without_its_init("segmentation_models_pytorch")

from segmentation_models_pytorch import losses as smp  # noqa: E402

ENTRIES = Entries()
add = ENTRIES.add


def multiclass(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 3, 6, 6)), d.labels(3, 2, 6, 6)


def binary(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 1, 6, 6)), d.bits(2, 1, 6, 6)


def multilabel(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 3, 6, 6)), d.bits(2, 3, 6, 6)


KINDS = {"multiclass": multiclass, "binary": binary, "multilabel": multilabel}

for loss in (smp.DiceLoss, smp.JaccardLoss, smp.TverskyLoss, smp.FocalLoss, smp.LovaszLoss):
    for kind, inputs in KINDS.items():
        add(f"{loss.__name__}, {kind}", lambda make=loss, mode=kind: make(mode), inputs)

add("SoftBCEWithLogitsLoss", smp.SoftBCEWithLogitsLoss, binary)
add("SoftCrossEntropyLoss", lambda: smp.SoftCrossEntropyLoss(smooth_factor=0.1), multiclass)
add("MCCLoss", smp.MCCLoss, lambda d: (wanted(d.uniform(2, 1, 6, 6)), d.bits(2, 1, 6, 6)))
