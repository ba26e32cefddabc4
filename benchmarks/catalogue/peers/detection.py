"""Detection losses of other libraries: boxes, and quality focal loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.catalogue.imported import Imported
from benchmarks.catalogue.peer import Peer
from lossproof.losses.boxes import ciou_loss, diou_loss, giou_loss, iou_loss
from lossproof.losses.detection import quality_focal_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

BOXES = "input boxes[64,4]; target boxes[64,4]"
QUALITIES = "input float[64,5]; target unit[64,5]"


def torchvision(name: str) -> Loss:
    """The mean of a box loss of torchvision."""
    return partial(Imported("torchvision.ops", name), reduction="mean")


def of_box_pairs(input: Tensor, target: Tensor) -> Tensor:
    """1 minus the mean IoU; torchvision has it for all pairs of boxes."""
    return 1 - BOX_IOU(input, target).diagonal().mean()


def giou_of_monai(input: Tensor, target: Tensor) -> Tensor:
    value: Tensor = MONAI_GIOU()(input, target)
    return value


def qfl_of_toolbelt(input: Tensor, target: Tensor) -> Tensor:
    value: Tensor = TOOLBELT_QFL(beta=2.0, reduction="mean")(input, target)
    return value


BOX_IOU = Imported("torchvision.ops", "box_iou")
MONAI_GIOU = Imported("monai.losses", "BoxGIoULoss")
TOOLBELT_QFL = Imported("pytorch_toolbelt.losses", "QualityFocalLoss", without=("cv2",))

PEERS = (
    Peer("iou_loss", "torchvision", "1 - box_iou().diagonal()", iou_loss, of_box_pairs, BOXES),
    Peer(
        "giou_loss",
        "torchvision",
        'generalized_box_iou_loss(reduction="mean")',
        giou_loss,
        torchvision("generalized_box_iou_loss"),
        BOXES,
    ),
    Peer("giou_loss", "monai", "BoxGIoULoss()", giou_loss, giou_of_monai, BOXES),
    Peer(
        "diou_loss",
        "torchvision",
        'distance_box_iou_loss(reduction="mean")',
        diou_loss,
        torchvision("distance_box_iou_loss"),
        BOXES,
    ),
    Peer(
        "ciou_loss",
        "torchvision",
        'complete_box_iou_loss(reduction="mean")',
        ciou_loss,
        torchvision("complete_box_iou_loss"),
        BOXES,
    ),
    Peer(
        "quality_focal_loss",
        "pytorch-toolbelt",
        "QualityFocalLoss(beta=2)",
        quality_focal_loss,
        qfl_of_toolbelt,
        QUALITIES,
    ),
)
