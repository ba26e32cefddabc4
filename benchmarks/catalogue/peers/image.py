"""Losses between images of other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.catalogue.imported import Imported, layer
from benchmarks.catalogue.peer import JOINED_HERE, MEAN_HERE, Peer
from lossproof.losses.image import edge_loss, psnr_loss, total_variation_loss
from lossproof.losses.image_similarity import lncc_loss, ms_ssim_loss, ssim_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

IMAGES = "input unit[2,3,20,17]; target unit[2,3,20,17]"
GREY = "input unit[2,1,48,52]; target unit[2,1,48,52]"
VOLUMES = "input unit[2,1,12,13,14]; target unit[2,1,12,13,14]"
BETAS = (0.3, 0.7)


def of(module: str, name: str, **options: Any) -> Loss:
    """A function of another library."""
    return functools.partial(Imported(module, name), **options)


def one_minus(score: Loss) -> Loss:
    """The loss of a score."""
    return lambda *tensors: 1 - score(*tensors)


def minus(score: Loss) -> Loss:
    """The loss of a score that has no largest value."""
    return lambda *tensors: -score(*tensors)


def alike(loss: Loss) -> Loss:
    """The loss of two images that resemble each other, where MS-SSIM is defined by the paper."""
    return lambda one, other: loss(0.3 * one + 0.7 * other, other)


_TOTAL_VARIATION = of("kornia.losses", "total_variation")
_SPATIAL_GRADIENT = of("kornia.filters", "spatial_gradient", mode="sobel")
_LNCC = layer(
    "monai.losses",
    "LocalNormalizedCrossCorrelationLoss",
    spatial_dims=2,
    kernel_size=5,
    reduction="none",
)
_SSIM_PIXELS = of(
    "torchmetrics.functional.image",
    "structural_similarity_index_measure",
    data_range=1.0,
    return_full_image=True,
)


def _kornia_total_variation(input: Tensor) -> Tensor:
    return _TOTAL_VARIATION(input).sum(1).mean()


def _kornia_edges(input: Tensor, target: Tensor) -> Tensor:
    inside = (_SPATIAL_GRADIENT(input) - _SPATIAL_GRADIENT(target))[..., 1:-1, 1:-1]
    return inside.abs().mean()


def _monai_lncc(input: Tensor, target: Tensor) -> Tensor:
    return 1 + _LNCC(input, target)[..., 2:-2, 2:-2].mean()


def _torchmetrics_ssim(input: Tensor, target: Tensor) -> Tensor:
    _, pixels = _SSIM_PIXELS(input, target)
    score: Tensor = pixels[..., 5:-5, 5:-5].mean()
    return 1 - score


def _half(loss: Loss) -> Loss:
    return lambda *tensors: loss(*tensors) / 2


def ms_ssim(**options: Any) -> Loss:
    return functools.partial(ms_ssim_loss, betas=BETAS, **options)


PEERS = (
    Peer(
        "ssim_loss",
        "pytorch-msssim",
        "1 - ssim(input, target, data_range=1)",
        ssim_loss,
        one_minus(of("pytorch_msssim", "ssim", data_range=1.0)),
        IMAGES,
    ),
    Peer(
        "ssim_loss",
        "pytorch-msssim",
        "1 - ssim(volumes, target, data_range=1)",
        ssim_loss,
        one_minus(of("pytorch_msssim", "ssim", data_range=1.0)),
        VOLUMES,
    ),
    Peer(
        "ssim_loss",
        "monai",
        "SSIMLoss(spatial_dims=2)",
        ssim_loss,
        layer("monai.losses", "SSIMLoss", spatial_dims=2),
        IMAGES,
    ),
    Peer(
        "ssim_loss",
        "monai",
        "SSIMLoss(spatial_dims=3)",
        ssim_loss,
        layer("monai.losses", "SSIMLoss", spatial_dims=3),
        VOLUMES,
    ),
    Peer(
        "ssim_loss",
        "piq",
        "SSIMLoss(downsample=False)",
        ssim_loss,
        layer("piq", "SSIMLoss", downsample=False),
        IMAGES,
    ),
    Peer(
        "ssim_loss",
        "kornia",
        'ssim_loss(input, target, 11, padding="valid")',
        _half(ssim_loss),
        of("kornia.losses", "ssim_loss", window_size=11, padding="valid"),
        IMAGES,
    ),
    Peer(
        "ssim_loss",
        "torchmetrics",
        "1 - structural_similarity_index_measure(..., return_full_image=True)[1], inside",
        ssim_loss,
        _torchmetrics_ssim,
        IMAGES,
        not_asked=MEAN_HERE,
    ),
    Peer(
        "ssim_loss",
        "kornia",
        'ssim3d_loss(volumes, target, 11, padding="valid")',
        _half(ssim_loss),
        of("kornia.losses", "ssim3d_loss", window_size=11, padding="valid"),
        VOLUMES,
    ),
    Peer(
        "ms_ssim_loss",
        "pytorch-msssim",
        "1 - ms_ssim(input, target, data_range=1, win_size=3, weights=[0.3, 0.7])",
        alike(ms_ssim(window_size=3)),
        alike(
            one_minus(
                of("pytorch_msssim", "ms_ssim", data_range=1.0, win_size=3, weights=list(BETAS))
            )
        ),
        GREY.replace(",1,", ",3,"),
        difference="the window of pytorch-msssim is rounded to float32",
        not_asked=JOINED_HERE,
    ),
    Peer(
        "ms_ssim_loss",
        "piq",
        "MultiScaleSSIMLoss(scale_weights=torch.tensor([0.3, 0.7]))",
        alike(ms_ssim()),
        alike(layer("piq", "MultiScaleSSIMLoss", scale_weights=torch.tensor(BETAS))),
        GREY.replace(",1,", ",3,"),
        not_asked=JOINED_HERE,
    ),
    Peer(
        "ms_ssim_loss",
        "torchmetrics",
        "1 - multiscale_structural_similarity_index_measure(input, target, betas=(0.3, 0.7))",
        alike(ms_ssim()),
        alike(
            one_minus(
                of(
                    "torchmetrics.functional.image",
                    "multiscale_structural_similarity_index_measure",
                    betas=BETAS,
                    data_range=1.0,
                )
            )
        ),
        GREY,
        difference="torchmetrics reflects the border at the coarsest scale",
        not_asked=JOINED_HERE,
    ),
    Peer(
        "ms_ssim_loss",
        "kornia",
        "MS_SSIMLoss(sigmas=(0.5, 1.0), alpha=1.0, compensation=1.0)",
        alike(ms_ssim()),
        alike(
            layer("kornia.losses", "MS_SSIMLoss", sigmas=(0.5, 1.0), alpha=1.0, compensation=1.0)
        ),
        GREY.replace(",1,", ",3,"),
        difference="kornia's scales are Gaussians of different widths on the whole image, not "
        "smaller images",
        not_asked=JOINED_HERE,
    ),
    Peer(
        "total_variation_loss",
        "kornia",
        "total_variation(input).sum(1).mean()",
        total_variation_loss,
        _kornia_total_variation,
        "input float[3,2,7,5]",
        not_asked=MEAN_HERE,
    ),
    Peer(
        "total_variation_loss",
        "torchmetrics",
        'total_variation(input, reduction="mean")',
        total_variation_loss,
        of("torchmetrics.functional.image", "total_variation", reduction="mean"),
        "input float[3,2,7,5]",
    ),
    Peer(
        "total_variation_loss",
        "piq",
        'TVLoss(norm_type="l1")',
        total_variation_loss,
        layer("piq", "TVLoss", norm_type="l1"),
        "input unit[3,2,7,5]",
    ),
    Peer(
        "psnr_loss",
        "kornia",
        "psnr_loss(input, target, 1.0)",
        functools.partial(psnr_loss, eps=1e-30),
        of("kornia.losses", "psnr_loss", max_val=1.0),
        "input unit[1,3,6,5]; target unit[1,3,6,5]",
    ),
    Peer(
        "psnr_loss",
        "piq",
        "-psnr(input, target)",
        functools.partial(psnr_loss, eps=1e-8),
        minus(of("piq", "psnr")),
        IMAGES,
    ),
    Peer(
        "psnr_loss",
        "torchmetrics",
        "-peak_signal_noise_ratio(input, target, data_range=1.0, dim=(1, 2, 3))",
        functools.partial(psnr_loss, eps=1e-30),
        minus(
            of(
                "torchmetrics.functional.image",
                "peak_signal_noise_ratio",
                data_range=1.0,
                dim=(1, 2, 3),
            )
        ),
        IMAGES,
    ),
    Peer(
        "edge_loss",
        "kornia",
        '(spatial_gradient(input, "sobel") - spatial_gradient(target, "sobel")).abs(), inside',
        edge_loss,
        _kornia_edges,
        "input float[3,3,7,5]; target float[3,3,7,5]",
        not_asked=(*JOINED_HERE, *MEAN_HERE),
    ),
    Peer(
        "lncc_loss",
        "monai",
        "1 + LocalNormalizedCrossCorrelationLoss(2, kernel_size=5), inside",
        functools.partial(lncc_loss, window_size=5, eps=1e-14),
        _monai_lncc,
        "input unit[2,1,12,11]; target unit[2,1,12,11]",
        not_asked=MEAN_HERE,
    ),
)
