"""Losses between signals of other libraries."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.catalogue.peer import Peer
from lossproof.losses.audio import multi_resolution_stft_loss, si_sdr_loss, snr_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

SIGNALS = "input float[3,2,400]; target float[3,2,400]"


def auraloss(module: str, name: str, **options: Any) -> Loss:
    """A loss of auraloss."""

    def loss(*tensors: Tensor) -> Tensor:
        made = getattr(importlib.import_module(f"auraloss.{module}"), name)(**options)
        value: Tensor = made(*tensors)
        return value

    return loss


def negative(name: str, **options: Any) -> Loss:
    """The mean of a ratio of torchmetrics, as a loss.

    It imports torchvision, which fails where its compiled operators are missing: it describes them
    to torch in the module that is replaced here.
    """

    def loss(*tensors: Tensor) -> Tensor:
        described = "torchvision._meta_registrations"
        sys.modules.setdefault(described, types.ModuleType(described))
        functional = importlib.import_module("torchmetrics.functional.audio")
        ratios: Tensor = getattr(functional, name)(*tensors, **options)
        return -ratios.mean()

    return loss


PEERS = (
    Peer(
        "si_sdr_loss",
        "auraloss",
        "SISDRLoss()",
        si_sdr_loss,
        auraloss("time", "SISDRLoss"),
        SIGNALS,
    ),
    Peer(
        "si_sdr_loss",
        "torchmetrics",
        "-scale_invariant_signal_distortion_ratio(input, target, zero_mean=True).mean()",
        functools.partial(si_sdr_loss, eps=1e-16),
        negative("scale_invariant_signal_distortion_ratio", zero_mean=True),
        SIGNALS,
    ),
    Peer(
        "si_sdr_loss",
        "torchmetrics",
        "-scale_invariant_signal_noise_ratio(input, target).mean()",
        functools.partial(si_sdr_loss, eps=1e-16),
        negative("scale_invariant_signal_noise_ratio"),
        SIGNALS,
    ),
    Peer(
        "snr_loss",
        "auraloss",
        "SNRLoss()",
        functools.partial(snr_loss, zero_mean=True),
        auraloss("time", "SNRLoss"),
        SIGNALS,
    ),
    Peer(
        "snr_loss",
        "torchmetrics",
        "-signal_noise_ratio(input, target).mean()",
        functools.partial(snr_loss, eps=1e-16),
        negative("signal_noise_ratio"),
        SIGNALS,
    ),
    Peer(
        "multi_resolution_stft_loss",
        "auraloss",
        "MultiResolutionSTFTLoss()",
        multi_resolution_stft_loss,
        auraloss("freq", "MultiResolutionSTFTLoss"),
        "input float[1,1,4000]; target float[1,1,4000]",
    ),
    Peer(
        "multi_resolution_stft_loss",
        "auraloss",
        "MultiResolutionSTFTLoss(), a batch of several signals",
        multi_resolution_stft_loss,
        auraloss("freq", "MultiResolutionSTFTLoss"),
        "input float[3,1,4000]; target float[3,1,4000]",
        difference="auraloss divides the spectra's error by the norm of the whole batch",
    ),
)
