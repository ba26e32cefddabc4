"""Detection losses of other libraries: boxes, and quality focal loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.catalogue.imported import Imported, layer
from benchmarks.catalogue.peer import JOINED_HERE, MEAN_HERE, Peer
from lossproof.losses.boxes import ciou_loss, diou_loss, giou_loss, iou_loss
from lossproof.losses.detection import quality_focal_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

BOXES = "input boxes[64,4]; target boxes[64,4]"
QUALITIES = "input float[64,5]; target unit[64,5]"


def torchvision(name: str) -> Loss:
    """The mean of a box loss of torchvision."""
    return partial(Imported("torchvision.ops", name), reduction="mean")


def torchmetrics(name: str) -> Loss:
    """1 minus the mean of a score of torchmetrics."""
    score = Imported("torchmetrics.functional.detection", name)
    return lambda input, target: 1 - score(input, target)


def of_box_pairs(input: Tensor, target: Tensor) -> Tensor:
    """1 minus the mean IoU; torchvision has it for all pairs of boxes."""
    return 1 - BOX_IOU(input, target).diagonal().mean()


BOX_IOU = Imported("torchvision.ops", "box_iou")

PEERS = (
    Peer(
        "iou_loss",
        "torchvision",
        "1 - box_iou().diagonal()",
        iou_loss,
        of_box_pairs,
        BOXES,
        not_asked=(*JOINED_HERE, *MEAN_HERE),
    ),
    Peer(
        "giou_loss",
        "torchvision",
        'generalized_box_iou_loss(reduction="mean")',
        giou_loss,
        torchvision("generalized_box_iou_loss"),
        BOXES,
    ),
    Peer(
        "giou_loss",
        "monai",
        "BoxGIoULoss()",
        giou_loss,
        layer("monai.losses", "BoxGIoULoss"),
        BOXES,
    ),
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
    *(
        Peer(loss, "torchmetrics", f"1 - {score}()", ours, torchmetrics(score), BOXES)
        for loss, ours, score in (
            ("iou_loss", iou_loss, "intersection_over_union"),
            ("giou_loss", giou_loss, "generalized_intersection_over_union"),
            ("diou_loss", diou_loss, "distance_intersection_over_union"),
            ("ciou_loss", ciou_loss, "complete_intersection_over_union"),
        )
    ),
    Peer(
        "quality_focal_loss",
        "pytorch-toolbelt",
        "QualityFocalLoss(beta=2)",
        quality_focal_loss,
        layer("pytorch_toolbelt.losses", "QualityFocalLoss", beta=2.0, reduction="mean"),
        QUALITIES,
    ),
)
