"""Losses between signals of other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.catalogue.imported import Imported, layer
from benchmarks.catalogue.peer import MEAN_HERE, Peer
from lossproof.losses.audio import (
    multi_resolution_stft_loss,
    permutation_invariant_loss,
    si_sdr_loss,
    snr_loss,
)

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

TORCHMETRICS = "torchmetrics.functional.audio"
SIGNALS = "input float[3,2,400]; target float[3,2,400]"


def auraloss(module: str, name: str, **options: Any) -> Loss:
    """A loss of auraloss."""
    return layer(f"auraloss.{module}", name, **options)


def negative(name: str, **options: Any) -> Loss:
    """The mean of a ratio of torchmetrics, as a loss."""
    ratios = Imported(TORCHMETRICS, name)
    return lambda *tensors: -ratios(*tensors, **options).mean()


PERMUTATION_INVARIANT = Imported(TORCHMETRICS, "permutation_invariant_training")


def _permutation_invariant_training(input: Tensor, target: Tensor) -> Tensor:
    best: Tensor = PERMUTATION_INVARIANT(input, target, negative_ratios, eval_func="min")[0]
    return best.mean()


def negative_ratios(input: Tensor, target: Tensor) -> Tensor:
    """The signal-to-noise ratio of each source, negative."""
    return snr_loss(input, target, reduction="none")


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
        not_asked=MEAN_HERE,
    ),
    Peer(
        "si_sdr_loss",
        "torchmetrics",
        "-scale_invariant_signal_noise_ratio(input, target).mean()",
        functools.partial(si_sdr_loss, eps=1e-16),
        negative("scale_invariant_signal_noise_ratio"),
        SIGNALS,
        not_asked=MEAN_HERE,
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
        not_asked=MEAN_HERE,
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
    Peer(
        "permutation_invariant_loss",
        "torchmetrics",
        'permutation_invariant_training(input, target, snr, eval_func="min")[0].mean()',
        functools.partial(permutation_invariant_loss, loss_func=snr_loss),
        _permutation_invariant_training,
        "input float[4,3,50]; target float[4,3,50]",
        not_asked=MEAN_HERE,
    ),
)
