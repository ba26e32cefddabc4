"""Classification losses of other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.catalogue.imported import Imported, layer
from benchmarks.catalogue.peer import MEAN_HERE, Peer
from lossproof.losses.classification import (
    binary_cross_entropy_with_logits_loss,
    cross_entropy_loss,
    poly1_cross_entropy_loss,
)
from lossproof.losses.consistency import jsd_consistency_loss
from lossproof.losses.focal import focal_loss, sigmoid_focal_loss
from lossproof.losses.margins import hinge_loss
from lossproof.losses.multilabel import asymmetric_loss, zlpr_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

SMP = "segmentation_models_pytorch.losses"
TOOLBELT = "pytorch_toolbelt.losses"
MONAI = "monai.losses"

LABELS = "input float[6,5,4]; target int[6,4]<5"
SAMPLES = "input float[8,5]; target int[8]<5"
SOFT = "input float[8,5]; target prob[8,5]"
BINARY = "input float[8,5]; target binary[8,5]"
WEIGHT = (0.5, 1.0, 2.0, 3.0, 0.1)


def with_options(loss: Loss, **options: Any) -> Loss:
    """A loss with its options."""
    return functools.partial(loss, **options)


def weights(input: Tensor) -> Tensor:
    """A weight for each class."""
    return torch.tensor(WEIGHT, dtype=input.dtype)


def weighted(loss: Loss) -> Loss:
    """A loss with class weights."""
    return lambda input, target: loss(input, target, weight=weights(input))


def with_channel(loss: Loss) -> Loss:
    """For a library whose labels have a channel axis."""
    return lambda input, target: loss(input, target.unsqueeze(1))


def as_image(loss: Loss) -> Loss:
    """For a library that takes images alone."""
    return lambda input, target: loss(input.unsqueeze(-1), target.unsqueeze(-1))


def total(loss: Loss) -> Loss:
    """The sum of values that a library gives one by one."""
    return lambda *tensors: loss(*tensors).sum()


TIMM_JSD = layer("timm.loss.jsd", "JsdCrossEntropy", 3, 12, 0)
TORCHMETRICS_HINGE = Imported("torchmetrics.functional.classification", "binary_hinge_loss")


def timm_divergence(input: Tensor) -> Tensor:
    """What is left of timm's loss without the cross entropy of the clean views."""
    views = input.transpose(0, 1).flatten(0, 1)
    target = torch.zeros(len(views), dtype=torch.int64)
    whole: Tensor = TIMM_JSD(views, target)
    return (whole - F.cross_entropy(input[:, 0], target[: len(input)])) / 12


def torchmetrics_hinge(input: Tensor, target: Tensor, **options: Any) -> Tensor:
    """For labels 0 and 1, and scores within them."""
    labels = (target.flatten() > 0).long()
    value: Tensor = TORCHMETRICS_HINGE(input.flatten(), labels, **options)
    return value


PEERS = (
    Peer(
        "cross_entropy_loss", "torch", "cross_entropy", cross_entropy_loss, F.cross_entropy, LABELS
    ),
    Peer(
        "cross_entropy_loss", "torch", "cross_entropy(label_smoothing=0.1, weight)",
        weighted(with_options(cross_entropy_loss, label_smoothing=0.1)),
        weighted(with_options(F.cross_entropy, label_smoothing=0.1)), LABELS,
    ),
    Peer(
        "cross_entropy_loss", "torch", "cross_entropy, soft targets",
        cross_entropy_loss, F.cross_entropy, SOFT,
    ),
    Peer(
        "cross_entropy_loss", "torch", "cross_entropy(weight), soft targets",
        weighted(cross_entropy_loss), weighted(F.cross_entropy), SOFT,
        difference="torch divides a mean by the weights for labels, but for probabilities by the "
        "number of items",
    ),
    Peer(
        "cross_entropy_loss", "timm", "LabelSmoothingCrossEntropy(0.1)",
        with_options(cross_entropy_loss, label_smoothing=0.1),
        layer("timm.loss", "LabelSmoothingCrossEntropy", 0.1), SAMPLES,
    ),
    Peer(
        "cross_entropy_loss", "timm", "SoftTargetCrossEntropy()",
        cross_entropy_loss, layer("timm.loss", "SoftTargetCrossEntropy"), SOFT,
    ),
    Peer(
        "cross_entropy_loss", "segmentation-models-pytorch",
        "SoftCrossEntropyLoss(smooth_factor=0.1)",
        with_options(cross_entropy_loss, label_smoothing=0.1),
        layer(SMP, "SoftCrossEntropyLoss", smooth_factor=0.1), LABELS,
    ),
    Peer(
        "cross_entropy_loss", "pytorch-toolbelt", "SoftCrossEntropyLoss(smooth_factor=0.1)",
        with_options(cross_entropy_loss, label_smoothing=0.1),
        layer(TOOLBELT, "SoftCrossEntropyLoss", smooth_factor=0.1), LABELS,
    ),
    Peer(
        "binary_cross_entropy_with_logits_loss", "torch",
        "binary_cross_entropy_with_logits(pos_weight)",
        lambda x, y: binary_cross_entropy_with_logits_loss(x, y, pos_weight=weights(x)),
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, pos_weight=weights(x)), BINARY,
    ),
    Peer(
        "binary_cross_entropy_with_logits_loss", "torch",
        "binary_cross_entropy_with_logits(weight)",
        lambda x, y: binary_cross_entropy_with_logits_loss(x, y, weight=weights(x).view(1, -1)),
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, weight=weights(x)), BINARY,
        difference="torch divides a mean by the number of values, not by the sum of the weights",
    ),
    Peer(
        "binary_cross_entropy_with_logits_loss", "timm",
        "BinaryCrossEntropy(0.1, smooth_dense=True)",
        with_options(binary_cross_entropy_with_logits_loss, label_smoothing=0.1),
        layer("timm.loss", "BinaryCrossEntropy", 0.1, smooth_dense=True), BINARY,
    ),
    Peer(
        "binary_cross_entropy_with_logits_loss", "segmentation-models-pytorch",
        "SoftBCEWithLogitsLoss()",
        binary_cross_entropy_with_logits_loss, layer(SMP, "SoftBCEWithLogitsLoss"), BINARY,
    ),
    Peer(
        "binary_cross_entropy_with_logits_loss", "pytorch-toolbelt", "SoftBCEWithLogitsLoss()",
        binary_cross_entropy_with_logits_loss, layer(TOOLBELT, "SoftBCEWithLogitsLoss"), BINARY,
    ),
    Peer(
        "poly1_cross_entropy_loss", "timm", "PolyCrossEntropy(epsilon=1)",
        poly1_cross_entropy_loss, layer("timm.loss", "PolyCrossEntropy", epsilon=1.0), SAMPLES,
    ),
    Peer(
        "poly1_cross_entropy_loss", "timm", "PolyCrossEntropy(epsilon=1), soft targets",
        poly1_cross_entropy_loss, layer("timm.loss", "PolyCrossEntropy", epsilon=1.0), SOFT,
    ),
    Peer(
        "sigmoid_focal_loss", "torchvision", 'sigmoid_focal_loss(reduction="mean")',
        sigmoid_focal_loss,
        with_options(
            Imported("torchvision.ops.focal_loss", "sigmoid_focal_loss"), reduction="mean"
        ),
        BINARY,
    ),
    Peer(
        "sigmoid_focal_loss", "torchvision", 'sigmoid_focal_loss(reduction="mean"), soft targets',
        sigmoid_focal_loss,
        with_options(
            Imported("torchvision.ops.focal_loss", "sigmoid_focal_loss"), reduction="mean"
        ),
        "input float[8,5]; target unit[8,5]",
        difference="torchvision mixes the probabilities of both outcomes, and then takes the focal "
        "factor; ours mixes their losses",
    ),
    Peer(
        "sigmoid_focal_loss", "kornia", 'binary_focal_loss_with_logits(reduction="mean")',
        sigmoid_focal_loss,
        with_options(Imported("kornia.losses", "binary_focal_loss_with_logits"), reduction="mean"),
        "input float[8,5]; target unit[8,5]",
    ),
    Peer(
        "sigmoid_focal_loss", "monai", "FocalLoss(alpha=0.25)",
        sigmoid_focal_loss, layer(MONAI, "FocalLoss", alpha=0.25), BINARY,
    ),
    Peer(
        "sigmoid_focal_loss", "segmentation-models-pytorch", 'FocalLoss("binary", alpha=0.25)',
        sigmoid_focal_loss, layer(SMP, "FocalLoss", "binary", alpha=0.25), BINARY,
    ),
    Peer(
        "sigmoid_focal_loss", "pytorch-toolbelt", "BinaryFocalLoss(alpha=0.25)",
        sigmoid_focal_loss, layer(TOOLBELT, "BinaryFocalLoss", alpha=0.25), BINARY,
    ),
    Peer(
        "focal_loss", "kornia", 'focal_loss(alpha=None, reduction="sum")',
        with_options(focal_loss, reduction="sum"),
        with_options(Imported("kornia.losses", "focal_loss"), alpha=None, reduction="sum"), LABELS,
    ),
    Peer(
        "focal_loss", "kornia", 'focal_loss(alpha=None, reduction="mean")',
        focal_loss,
        with_options(Imported("kornia.losses", "focal_loss"), alpha=None, reduction="mean"), LABELS,
        difference="kornia divides by the number of classes, too",
    ),
    Peer(
        "focal_loss", "monai", 'FocalLoss(to_onehot_y=True, use_softmax=True, reduction="none")',
        with_options(focal_loss, reduction="sum"),
        total(with_channel(
            layer(MONAI, "FocalLoss", to_onehot_y=True, use_softmax=True, reduction="none")
        )),
        LABELS,
    ),
    Peer(
        "focal_loss", "monai", "FocalLoss(to_onehot_y=True, use_softmax=True)",
        focal_loss,
        with_channel(layer(MONAI, "FocalLoss", to_onehot_y=True, use_softmax=True)), LABELS,
        difference="monai divides by the number of classes, too",
    ),
    Peer(
        "focal_loss", "segmentation-models-pytorch", 'FocalLoss("multiclass")',
        focal_loss, layer(SMP, "FocalLoss", "multiclass"), LABELS,
        difference="a mean of one sigmoid focal loss for each class, not a softmax",
    ),
    Peer(
        "focal_loss", "pytorch-toolbelt", "CrossEntropyFocalLoss()",
        focal_loss, as_image(layer(TOOLBELT, "CrossEntropyFocalLoss")), SAMPLES,
        difference="the focal factor of a softmax on the cross entropy of a sigmoid",
    ),
    Peer(
        "asymmetric_loss", "timm", 'AsymmetricLossMultiLabel(reduction="mean")',
        asymmetric_loss, layer("timm.loss", "AsymmetricLossMultiLabel", reduction="mean"), BINARY,
    ),
    Peer("zlpr_loss", "timm", "ZlprLoss()", zlpr_loss, layer("timm.loss", "ZlprLoss"), BINARY),
    Peer(
        "jsd_consistency_loss", "timm", "JsdCrossEntropy(smoothing=0), less its cross entropy",
        jsd_consistency_loss, timm_divergence, "input float[8,3,5]", not_asked=MEAN_HERE,
    ),
    Peer(
        "hinge_loss", "torchmetrics", "binary_hinge_loss",
        hinge_loss, torchmetrics_hinge, "input unit[8,4]; target sign[8,4]",
    ),
    Peer(
        "hinge_loss", "torchmetrics", "binary_hinge_loss(squared=True)",
        with_options(hinge_loss, squared=True),
        with_options(torchmetrics_hinge, squared=True), "input unit[8,4]; target sign[8,4]",
    ),
)  # fmt: skip
