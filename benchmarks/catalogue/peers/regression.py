"""Regression losses of other libraries: plain, robust and relative errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.catalogue.imported import Imported, Kept, layer
from benchmarks.catalogue.peer import Peer
from lossproof.losses.regression import (
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    smooth_l1_loss,
)
from lossproof.losses.relative_errors import msle_loss, smape_loss
from lossproof.losses.robust_regression import charbonnier_loss, general_robust_loss, wing_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

NUMBERS = "input float[64,5]; target float[64,5]"
AMOUNTS = "input positive[64,5]; target positive[64,5]"


def of_torchmetrics(name: str, **options: Any) -> Loss:
    """A functional metric of regression of torchmetrics."""
    return partial(Imported("torchmetrics.functional.regression", name), **options)


def kornia(name: str) -> Loss:
    """The mean of a loss of kornia."""
    return partial(Imported("kornia.losses", name), reduction="mean")


def toolbelt(name: str, **options: Any) -> Kept:
    """A loss of pytorch-toolbelt."""
    return layer("pytorch_toolbelt.losses", name, **options)


_LOG_COSH_ERROR = of_torchmetrics("log_cosh_error")


def torchmetrics_log_cosh(input: Tensor, target: Tensor) -> Tensor:
    """It gives each column its own mean, so that there must be one column."""
    return _LOG_COSH_ERROR(input.flatten(), target.flatten())


def above_the_floor(input: Tensor, target: Tensor) -> Tensor:
    """Charbonnier's loss, 0 at the target."""
    return charbonnier_loss(input, target, eps=1.0) - 1.0


PLAIN = (
    Peer("mse_loss", "torch", "mse_loss()", mse_loss, functional.mse_loss, NUMBERS),
    Peer(
        "mse_loss",
        "torchmetrics",
        "mean_squared_error()",
        mse_loss,
        of_torchmetrics("mean_squared_error"),
        NUMBERS,
    ),
    Peer("l1_loss", "torch", "l1_loss()", l1_loss, functional.l1_loss, NUMBERS),
    Peer(
        "l1_loss",
        "torchmetrics",
        "mean_absolute_error()",
        l1_loss,
        of_torchmetrics("mean_absolute_error"),
        NUMBERS,
    ),
    Peer("huber_loss", "torch", "huber_loss()", huber_loss, functional.huber_loss, NUMBERS),
    Peer(
        "huber_loss",
        "torch",
        "huber_loss(delta=0.3)",
        partial(huber_loss, delta=0.3),
        partial(functional.huber_loss, delta=0.3),
        NUMBERS,
    ),
    Peer(
        "smooth_l1_loss",
        "torch",
        "smooth_l1_loss()",
        smooth_l1_loss,
        functional.smooth_l1_loss,
        NUMBERS,
    ),
    Peer(
        "smooth_l1_loss",
        "torch",
        "smooth_l1_loss(beta=0.3)",
        partial(smooth_l1_loss, beta=0.3),
        partial(functional.smooth_l1_loss, beta=0.3),
        NUMBERS,
    ),
    Peer(
        "log_cosh_loss",
        "auraloss",
        "LogCoshLoss()",
        log_cosh_loss,
        layer("auraloss.time", "LogCoshLoss"),
        NUMBERS,
    ),
    Peer(
        "log_cosh_loss",
        "pytorch-toolbelt",
        "LogCoshLoss()",
        log_cosh_loss,
        toolbelt("LogCoshLoss"),
        NUMBERS,
    ),
    Peer(
        "log_cosh_loss",
        "torchmetrics",
        "log_cosh_error()",
        log_cosh_loss,
        torchmetrics_log_cosh,
        NUMBERS,
    ),
)

ROBUST = (
    Peer(
        "charbonnier_loss",
        "kornia",
        "charbonnier_loss()",
        above_the_floor,
        kornia("charbonnier_loss"),
        NUMBERS,
    ),
    *(
        Peer(
            "general_robust_loss",
            "kornia",
            f"{name}()",
            partial(general_robust_loss, alpha=alpha),
            kornia(name),
            NUMBERS,
        )
        for name, alpha in (
            ("charbonnier_loss", 1.0),
            ("cauchy_loss", 0.0),
            ("geman_mcclure_loss", -2.0),
            ("welsch_loss", -math.inf),
        )
    ),
    Peer(
        "wing_loss",
        "pytorch-toolbelt",
        "WingLoss()",
        partial(wing_loss, width=5.0, curvature=0.5),
        toolbelt("WingLoss"),
        NUMBERS,
    ),
)

RELATIVE = (
    Peer(
        "msle_loss",
        "torchmetrics",
        "mean_squared_log_error()",
        msle_loss,
        of_torchmetrics("mean_squared_log_error"),
        AMOUNTS,
    ),
    Peer(
        "smape_loss",
        "torchmetrics",
        "symmetric_mean_absolute_percentage_error()",
        smape_loss,
        of_torchmetrics("symmetric_mean_absolute_percentage_error"),
        AMOUNTS,
    ),
)

PEERS = (*PLAIN, *ROBUST, *RELATIVE)
