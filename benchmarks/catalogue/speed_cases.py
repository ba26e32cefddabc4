"""The twelve losses that are timed: ours, the plain formula, and the copies of other libraries."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.catalogue import plain_formulas as plain
from benchmarks.catalogue.imported import NEEDLESS
from benchmarks.libraries.stand_ins import stand_ins
from lossproof import losses

Tensor = torch.Tensor
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One loss at one size."""

    name: str
    size: str
    ours: Loss
    plain: Loss
    draw: Callable[[], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    """The tensors that want a gradient, and the others."""
    peers: Mapping[str, Callable[[], Loss]] = field(default_factory=dict)
    """By library; each imports its own and gives the loss."""


def _of(module: str, name: str, **options: Any) -> Callable[[], Loss]:
    """A function of a library."""

    def make() -> Loss:
        function = getattr(_imported(module), name)
        return lambda *tensors: function(*tensors, **options)

    return make


def _layer(module: str, name: str, *arguments: Any, **options: Any) -> Callable[[], Loss]:
    """A Module of a library."""
    return lambda: getattr(_imported(module), name)(*arguments, **options)


def _imported(module: str) -> Any:
    # A torchvision without its compiled operators can be imported without this description.
    sys.modules.setdefault(
        "torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations")
    )
    with stand_ins(*NEEDLESS.get(module.partition(".")[0], ())):
        return importlib.import_module(module)


def _with_channel(make: Callable[[], Loss]) -> Callable[[], Loss]:
    """For a library whose labels have a channel axis."""

    def made() -> Loss:
        loss = make()
        return lambda input, target: loss(input, target.unsqueeze(1))

    return made


def _of_probabilities(make: Callable[[], Loss]) -> Callable[[], Loss]:
    """For a library that leaves the softmax to its caller."""

    def made() -> Loss:
        loss = make()
        return lambda input, target: loss(input.softmax(1), target)

    return made


def _segmentation(n: int, size: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return (torch.randn(n, 21, size, size),), (torch.randint(21, (n, size, size)),)


def _binary(*shape: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return (torch.randn(shape),), ((torch.rand(shape) > 0.9).float(),)


def _labelled(n: int, d: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return (torch.randn(n, d),), (torch.arange(n) % (n // 4),)


def _views(n: int, d: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return (torch.randn(n, d), torch.randn(n, d)), ()


def _images() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return (torch.rand(4, 3, 256, 256),), (torch.rand(4, 3, 256, 256),)


def _ensemble() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return (torch.randn(16384, 64),), (torch.randn(16384),)


def _batch_hard_of_pml() -> Loss:
    distance = _imported("pytorch_metric_learning.distances").LpDistance(normalize_embeddings=False)
    mean = _imported("pytorch_metric_learning.reducers").MeanReducer()
    miner = _imported("pytorch_metric_learning.miners").BatchHardMiner(distance=distance)
    loss = _imported("pytorch_metric_learning.losses").TripletMarginLoss(
        margin=0.3, distance=distance, reducer=mean
    )
    return lambda input, target: loss(input, target, miner(input, target))


def _ssim_of_pytorch_msssim() -> Loss:
    score = _imported("pytorch_msssim").ssim
    return lambda input, target: 1 - score(input, target, data_range=1.0)


def _nt_xent_of_pml() -> Loss:
    room = _imported("pytorch_metric_learning.losses")
    loss: Loss = room.SelfSupervisedLoss(room.NTXentLoss(0.5))
    return loss


SMP = "segmentation_models_pytorch.losses"
TOOLBELT = "pytorch_toolbelt.losses"
CASES = (
    Case(
        "sigmoid_focal_loss", "8x1x1024x1024", losses.sigmoid_focal_loss, plain.sigmoid_focal,
        lambda: _binary(8, 1, 1024, 1024),
        {
            "torchvision": _of("torchvision.ops.focal_loss", "sigmoid_focal_loss",
                               reduction="mean"),
            "kornia": _of("kornia.losses", "binary_focal_loss_with_logits", alpha=0.25,
                          reduction="mean"),
            "monai": _layer("monai.losses", "FocalLoss", alpha=0.25),
            "segmentation-models-pytorch": _layer(SMP, "FocalLoss", "binary", alpha=0.25),
        },
    ),
    Case(
        "focal_loss", "8x21x256x256", losses.focal_loss, plain.softmax_focal,
        lambda: _segmentation(8, 256),
        {
            "kornia": _of("kornia.losses", "focal_loss", alpha=None, reduction="mean"),
            "monai": _with_channel(
                _layer("monai.losses", "FocalLoss", to_onehot_y=True, use_softmax=True)
            ),
            "segmentation-models-pytorch": _layer(SMP, "FocalLoss", "multiclass"),
            "pytorch-toolbelt": _layer(TOOLBELT, "CrossEntropyFocalLoss"),
        },
    ),
    Case(
        "dice_loss", "8x21x256x256",
        lambda input, target: losses.dice_loss(input, target, smooth=1e-5),
        plain.dice, lambda: _segmentation(8, 256),
        {
            "kornia (micro)": _of("kornia.losses", "dice_loss", average="micro"),
            "kornia (macro)": _of("kornia.losses", "dice_loss", average="macro"),
            "monai": _with_channel(
                _layer("monai.losses", "DiceLoss", to_onehot_y=True, softmax=True)
            ),
            "segmentation-models-pytorch": _layer(SMP, "DiceLoss", "multiclass"),
            "pytorch-toolbelt": _layer(TOOLBELT, "DiceLoss", "multiclass"),
        },
    ),
    Case(
        "tversky_loss", "8x21x256x256",
        lambda input, target: losses.tversky_loss(
            input, target, alpha=0.3, beta=0.7, smooth=1e-5
        ),
        plain.tversky, lambda: _segmentation(8, 256),
        {
            "kornia": _of("kornia.losses", "tversky_loss", alpha=0.3, beta=0.7),
            "monai": _with_channel(
                _layer("monai.losses", "TverskyLoss", to_onehot_y=True, softmax=True, alpha=0.3,
                       beta=0.7)
            ),
            "segmentation-models-pytorch": _layer(
                SMP, "TverskyLoss", "multiclass", alpha=0.3, beta=0.7
            ),
        },
    ),
    Case(
        "lovasz_softmax_loss", "4x21x128x128", losses.lovasz_softmax_loss, plain.lovasz_softmax,
        lambda: _segmentation(4, 128),
        {
            "kornia": _of("kornia.losses", "lovasz_softmax_loss"),
            "segmentation-models-pytorch": _layer(SMP, "LovaszLoss", "multiclass"),
            "pytorch-toolbelt": _of_probabilities(_layer(TOOLBELT, "LovaszLoss")),
        },
    ),
    Case(
        "asymmetric_loss", "1024x8192", losses.asymmetric_loss, plain.asymmetric,
        lambda: _binary(1024, 8192),
        {"timm": _layer("timm.loss", "AsymmetricLossMultiLabel")},
    ),
    Case(
        "nt_xent_loss", "2x256x128",
        lambda input1, input2: losses.nt_xent_loss(input1, input2, temperature=0.5),
        plain.nt_xent, lambda: _views(256, 128),
        {
            "lightly": _layer("lightly.loss.ntx_ent_loss", "NTXentLoss", 0.5),
            "monai": _layer("monai.losses", "ContrastiveLoss", 0.5),
            "pytorch-metric-learning": _nt_xent_of_pml,
        },
    ),
    Case(
        "sup_con_loss", "1024x128",
        lambda input, target: losses.sup_con_loss(input, target, temperature=0.1),
        plain.sup_con, lambda: _labelled(1024, 128),
        {"pytorch-metric-learning": _layer("pytorch_metric_learning.losses", "SupConLoss", 0.1)},
    ),
    Case(
        "batch_hard_triplet_loss", "512x128",
        lambda input, target: losses.batch_hard_triplet_loss(input, target, margin=0.3),
        plain.batch_hard_triplet, lambda: _labelled(512, 128),
        {"pytorch-metric-learning": _batch_hard_of_pml},
    ),
    Case(
        "ssim_loss", "4x3x256x256", losses.ssim_loss, plain.ssim, _images,
        {
            "pytorch-msssim": _ssim_of_pytorch_msssim,
            "kornia": _of("kornia.losses", "ssim_loss", window_size=11),
            "monai": _layer("monai.losses", "SSIMLoss", 2),
            "piq": _layer("piq", "SSIMLoss", downsample=False),
        },
    ),
    Case(
        "crps_ensemble_loss", "16384x64", losses.crps_ensemble_loss, plain.crps_ensemble,
        _ensemble,
        {
            "torchmetrics": _of(
                "torchmetrics.functional.regression.crps", "continuous_ranked_probability_score"
            ),
        },
    ),
    Case(
        "barlow_twins_loss", "512x2048", losses.barlow_twins_loss, plain.barlow_twins,
        lambda: _views(512, 2048),
        {
            "lightly": _layer("lightly.loss.barlow_twins_loss", "BarlowTwinsLoss"),
            "monai": _layer("monai.losses", "BarlowTwinsLoss"),
        },
    ),
)  # fmt: skip
