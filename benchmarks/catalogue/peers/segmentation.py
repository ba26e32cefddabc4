"""Segmentation losses of other libraries: overlaps, Lovász losses, Dice with cross entropy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.catalogue.imported import Imported, layer
from benchmarks.catalogue.peer import Peer
from lossproof.losses.lovasz import lovasz_hinge_loss, lovasz_softmax_loss
from lossproof.losses.overlap import dice_loss, generalized_dice_loss, jaccard_loss
from lossproof.losses.segmentation import dice_ce_loss
from lossproof.losses.tversky import focal_tversky_loss, tversky_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

SMP = "segmentation_models_pytorch.losses"
TOOLBELT = "pytorch_toolbelt.losses"

LABELS = "input float[3,4,6,7]; target int[3,6,7]<4"
MASKS = "input float[3,4,6,7]; target binary[3,4,6,7]"
SOFT = "input float[3,4,6,7]; target prob[3,4,6,7]"
BINARY = "input float[3,6,7]; target int[3,6,7]<2"


def monai(name: str, **options: Any) -> Loss:
    """A Module of monai; its labels have a channel."""
    loss = layer("monai.losses", name, softmax=True, to_onehot_y=True, **options)
    return lambda input, target: loss(input, target.unsqueeze(1))


def kornia(name: str, **options: Any) -> Loss:
    """A function of kornia."""
    return partial(Imported("kornia.losses", name), **options)


def with_channel(loss: Loss) -> Loss:
    """A loss whose binary logits have a channel."""
    return lambda input, target: loss(input.unsqueeze(1), target)


def of_probabilities(loss: Loss) -> Loss:
    """A loss that takes probabilities, given logits."""
    return lambda input, target: loss(torch.softmax(input, 1), target)


ONES = {"smooth_nr": 1.0, "smooth_dr": 1.0}

DICE = (
    Peer(
        "dice_loss",
        "kornia",
        'dice_loss(average="micro")',
        partial(dice_loss, smooth=0.0, classes="micro"),
        kornia("dice_loss", average="micro"),
        LABELS,
    ),
    Peer(
        "dice_loss",
        "kornia",
        'dice_loss(average="macro")',
        partial(dice_loss, smooth=0.0, absent="skip"),
        kornia("dice_loss", average="macro"),
        LABELS,
    ),
    Peer(
        "dice_loss",
        "monai",
        "DiceLoss(softmax=True, smooth_nr=1, smooth_dr=1)",
        dice_loss,
        monai("DiceLoss", **ONES),
        LABELS,
    ),
    Peer(
        "dice_loss",
        "monai",
        "DiceLoss(batch=True, include_background=False, squared_pred=True)",
        partial(dice_loss, average="batch", include_background=False, squared=True),
        monai("DiceLoss", batch=True, include_background=False, squared_pred=True, **ONES),
        LABELS,
    ),
    Peer(
        "dice_loss",
        "monai",
        "DiceLoss(softmax=True, soft_label=True)",
        dice_loss,
        layer("monai.losses", "DiceLoss", softmax=True, soft_label=True, **ONES),
        SOFT,
    ),
    Peer(
        "dice_loss",
        "monai",
        "DiceLoss(softmax=True)",
        dice_loss,
        layer("monai.losses", "DiceLoss", softmax=True, **ONES),
        SOFT,
        difference="for soft targets the product p t is not best at p = t",
    ),
    Peer(
        "dice_loss",
        "segmentation-models-pytorch",
        'DiceLoss("multiclass", smooth=0.5)',
        partial(dice_loss, average="batch"),
        layer(SMP, "DiceLoss", "multiclass", smooth=0.5),
        LABELS,
    ),
    Peer(
        "dice_loss",
        "segmentation-models-pytorch",
        'DiceLoss("multilabel", smooth=0.5)',
        partial(dice_loss, average="batch", activation="sigmoid"),
        layer(SMP, "DiceLoss", "multilabel", smooth=0.5),
        MASKS,
    ),
    Peer(
        "dice_loss",
        "pytorch-toolbelt",
        'DiceLoss("multiclass", smooth=1)',
        partial(dice_loss, average="batch"),
        layer(TOOLBELT, "DiceLoss", "multiclass", smooth=1.0),
        LABELS,
    ),
    Peer(
        "dice_loss",
        "pytorch-toolbelt",
        'DiceLoss("multilabel", smooth=1)',
        partial(dice_loss, average="batch", activation="sigmoid"),
        layer(TOOLBELT, "DiceLoss", "multilabel", smooth=1.0),
        MASKS,
    ),
    Peer(
        "generalized_dice_loss",
        "monai",
        "GeneralizedDiceLoss(softmax=True, smooth_nr=0, smooth_dr=0)",
        generalized_dice_loss,
        monai("GeneralizedDiceLoss", smooth_nr=0.0, smooth_dr=0.0),
        LABELS,
    ),
    Peer(
        "generalized_dice_loss",
        "monai",
        'GeneralizedDiceLoss(batch=True, w_type="simple")',
        partial(generalized_dice_loss, average="batch", class_weighting="simple"),
        monai("GeneralizedDiceLoss", batch=True, w_type="simple", smooth_nr=0.0, smooth_dr=0.0),
        LABELS,
    ),
    Peer(
        "dice_ce_loss",
        "monai",
        "DiceCELoss(softmax=True, smooth_nr=1, smooth_dr=1)",
        dice_ce_loss,
        monai("DiceCELoss", **ONES),
        LABELS,
    ),
)

JACCARD_AND_TVERSKY = (
    Peer(
        "jaccard_loss",
        "monai",
        "DiceLoss(jaccard=True, smooth_nr=1, smooth_dr=1)",
        partial(jaccard_loss, smooth=0.5),
        monai("DiceLoss", jaccard=True, **ONES),
        LABELS,
    ),
    Peer(
        "jaccard_loss",
        "segmentation-models-pytorch",
        'JaccardLoss("multiclass", smooth=1)',
        partial(jaccard_loss, average="batch"),
        layer(SMP, "JaccardLoss", "multiclass", smooth=1.0),
        LABELS,
    ),
    Peer(
        "jaccard_loss",
        "pytorch-toolbelt",
        'JaccardLoss("multiclass", smooth=1)',
        partial(jaccard_loss, average="batch"),
        layer(TOOLBELT, "JaccardLoss", "multiclass", smooth=1.0),
        LABELS,
    ),
    Peer(
        "jaccard_loss",
        "segmentation-models-pytorch",
        'JaccardLoss("multilabel", smooth=1)',
        partial(jaccard_loss, average="batch", activation="sigmoid"),
        layer(SMP, "JaccardLoss", "multilabel", smooth=1.0),
        MASKS,
    ),
    Peer(
        "jaccard_loss",
        "pytorch-toolbelt",
        'JaccardLoss("multilabel", smooth=1)',
        partial(jaccard_loss, average="batch", activation="sigmoid"),
        layer(TOOLBELT, "JaccardLoss", "multilabel", smooth=1.0),
        MASKS,
    ),
    Peer(
        "tversky_loss",
        "kornia",
        "tversky_loss(alpha=0.3, beta=0.7)",
        partial(tversky_loss, smooth=0.0, absent="skip"),
        kornia("tversky_loss", alpha=0.3, beta=0.7),
        LABELS,
    ),
    Peer(
        "tversky_loss",
        "monai",
        "TverskyLoss(alpha=0.3, beta=0.7, smooth_nr=1, smooth_dr=1)",
        tversky_loss,
        monai("TverskyLoss", alpha=0.3, beta=0.7, **ONES),
        LABELS,
    ),
    Peer(
        "tversky_loss",
        "segmentation-models-pytorch",
        'TverskyLoss("multiclass", alpha=0.3, beta=0.7, smooth=1)',
        partial(tversky_loss, average="batch"),
        layer(SMP, "TverskyLoss", "multiclass", alpha=0.3, beta=0.7, smooth=1.0),
        LABELS,
    ),
    Peer(
        "focal_tversky_loss",
        "segmentation-models-pytorch",
        'TverskyLoss("multiclass", alpha=0.3, beta=0.7, smooth=1, gamma=0.75)',
        partial(focal_tversky_loss, average="batch"),
        layer(SMP, "TverskyLoss", "multiclass", alpha=0.3, beta=0.7, smooth=1.0, gamma=0.75),
        LABELS,
        difference="the power is taken of the mean over the classes, not of each class",
    ),
)

LOVASZ = (
    Peer(
        "lovasz_softmax_loss",
        "kornia",
        "lovasz_softmax_loss()",
        partial(lovasz_softmax_loss, per_image=True, classes="all"),
        kornia("lovasz_softmax_loss"),
        LABELS,
    ),
    Peer(
        "lovasz_softmax_loss",
        "segmentation-models-pytorch",
        'LovaszLoss("multiclass")',
        lovasz_softmax_loss,
        layer(SMP, "LovaszLoss", "multiclass"),
        LABELS,
    ),
    Peer(
        "lovasz_softmax_loss",
        "pytorch-toolbelt",
        "LovaszLoss() of probabilities",
        lovasz_softmax_loss,
        of_probabilities(layer(TOOLBELT, "LovaszLoss")),
        LABELS,
    ),
    Peer(
        "lovasz_hinge_loss",
        "kornia",
        "lovasz_hinge_loss()",
        lovasz_hinge_loss,
        with_channel(kornia("lovasz_hinge_loss")),
        BINARY,
    ),
    Peer(
        "lovasz_hinge_loss",
        "segmentation-models-pytorch",
        'LovaszLoss("binary")',
        partial(lovasz_hinge_loss, per_image=False),
        layer(SMP, "LovaszLoss", "binary"),
        BINARY,
    ),
    Peer(
        "lovasz_hinge_loss",
        "pytorch-toolbelt",
        "BinaryLovaszLoss(per_image=True)",
        lovasz_hinge_loss,
        layer(TOOLBELT, "BinaryLovaszLoss", per_image=True),
        BINARY,
    ),
)

PEERS = (*DICE, *JACCARD_AND_TVERSKY, *LOVASZ)
