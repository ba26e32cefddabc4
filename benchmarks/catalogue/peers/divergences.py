"""Divergences and distillation of other libraries."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from benchmarks.catalogue.imported import Imported, layer
from benchmarks.catalogue.peer import JOINED_HERE, MEAN_HERE, Peer
from lossproof.losses.distillation import gkd_jsd_loss, kd_kl_loss
from lossproof.losses.divergences import js_divergence_loss, kl_divergence_loss, kl_gaussian_loss
from lossproof.losses.sample_divergences import energy_distance_loss, mmd_loss, sinkhorn_loss

Tensor = torch.Tensor


def _distributions_kl(mu: Tensor, log_var: Tensor) -> Tensor:
    normal = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return torch.distributions.kl_divergence(normal, standard).sum(1).mean()


def _torch_kl(input: Tensor, target: Tensor) -> Tensor:
    return functional.kl_div(input.log_softmax(1), target, reduction="batchmean")


def _torch_kl_mean(input: Tensor, target: Tensor) -> Tensor:
    return functional.kl_div(input.log_softmax(1), target)


def _torch_kd(input: Tensor, target: Tensor) -> Tensor:
    student, teacher = (input / 4).log_softmax(1), (target / 4).log_softmax(1)
    return 16 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _kornia(name: str) -> Any:
    """A divergence of heat maps: here of 3 by 5, from logits."""
    divergence = Imported("kornia.losses", name)

    def loss(input: Tensor, target: Tensor) -> Tensor:
        maps = (x.reshape(len(x), 1, 3, 5) for x in (input.softmax(1), target))
        value: Tensor = divergence(*maps)
        return value

    return loss


_TORCHMETRICS_KL = Imported("torchmetrics.functional", "kl_divergence")


def _torchmetrics_kl(input: Tensor, target: Tensor) -> Tensor:
    value: Tensor = _TORCHMETRICS_KL(target, input.softmax(1))
    return value


_TORCHMETRICS_JS = Imported("torchmetrics.functional.regression", "jensen_shannon_divergence")


def _torchmetrics_js(input: Tensor, target: Tensor) -> Tensor:
    value: Tensor = _TORCHMETRICS_JS(input.softmax(1), target)
    return value


def _liger_jsd(beta: float) -> Any:
    divergence = Imported(
        "liger_kernel.chunked_loss.jsd_loss", "LigerFusedLinearJSDFunction.distillation_loss_fn"
    )

    def loss(input: Tensor, target: Tensor) -> Tensor:
        value: Tensor = divergence(input, target, beta=beta) / len(input)
        return value

    return loss


def _twice_geomloss(kind: str, **options: Any) -> Any:
    divergence = layer("geomloss", "SamplesLoss", kind, backend="tensorized", **options)

    def loss(input: Tensor, target: Tensor) -> Tensor:
        value: Tensor = 2 * divergence(input, target)
        return value

    return loss


ROWS = "input float[8,5]; target prob[8,5]"
MAPS = "input float[8,15]; target prob[8,15]"
LOGITS = "input float[8,5]; target float[8,5]"
POINTS = "input float[8,3]; target float[10,3]"

PEERS = (
    Peer(
        "kl_gaussian_loss",
        "torch",
        "kl_divergence(Normal(mu, exp(log_var / 2)), Normal(0, 1)).sum(1).mean()",
        kl_gaussian_loss,
        _distributions_kl,
        "mu float[8,4]; log_var float[8,4]",
        not_asked=(*JOINED_HERE, *MEAN_HERE),
    ),
    Peer(
        "kl_divergence_loss",
        "torch",
        "kl_div(log_softmax(input, 1), target, reduction='batchmean')",
        kl_divergence_loss,
        _torch_kl,
        ROWS,
    ),
    Peer(
        "kl_divergence_loss",
        "torch",
        "kl_div(log_softmax(input, 1), target)",
        kl_divergence_loss,
        _torch_kl_mean,
        ROWS,
        difference="its 'mean' divides by the number of classes as well",
    ),
    Peer(
        "kl_divergence_loss",
        "kornia",
        "kl_div_loss_2d(softmax(input, 1), target)",
        kl_divergence_loss,
        _kornia("kl_div_loss_2d"),
        MAPS,
    ),
    Peer(
        "kl_divergence_loss",
        "torchmetrics",
        "kl_divergence(target, softmax(input, 1))",
        kl_divergence_loss,
        _torchmetrics_kl,
        ROWS,
    ),
    Peer(
        "js_divergence_loss",
        "kornia",
        "js_div_loss_2d(softmax(input, 1), target)",
        js_divergence_loss,
        _kornia("js_div_loss_2d"),
        MAPS,
    ),
    Peer(
        "js_divergence_loss",
        "torchmetrics",
        "jensen_shannon_divergence(softmax(input, 1), target)",
        js_divergence_loss,
        _torchmetrics_js,
        ROWS,
    ),
    Peer(
        "kd_kl_loss",
        "torch",
        "16 * kl_div(log_softmax(s / 4, 1), log_softmax(t / 4, 1), 'batchmean', log_target=True)",
        lambda input, target: kd_kl_loss(input, target, temperature=4.0),
        _torch_kd,
        LOGITS,
    ),
    *(
        Peer(
            "gkd_jsd_loss",
            "liger-kernel",
            f"LigerFusedLinearJSDFunction.distillation_loss_fn(student, teacher, beta={beta}) / N",
            lambda input, target, beta=beta: gkd_jsd_loss(input, target, beta=beta),
            _liger_jsd(beta),
            LOGITS,
            not_asked=(*JOINED_HERE, *MEAN_HERE),
        )
        for beta in (0.0, 0.3, 1.0)
    ),
    Peer(
        "mmd_loss",
        "geomloss",
        "2 * SamplesLoss('gaussian', blur=0.7)(input, target)",
        lambda input, target: mmd_loss(input, target, bandwidths=0.7),
        _twice_geomloss("gaussian", blur=0.7),
        POINTS,
    ),
    Peer(
        "energy_distance_loss",
        "geomloss",
        "2 * SamplesLoss('energy')(input, target)",
        energy_distance_loss,
        _twice_geomloss("energy"),
        POINTS,
        difference="its distances have a floor of 1e-4, also that of a point from itself",
    ),
    Peer(
        "sinkhorn_loss",
        "geomloss",
        "2 * SamplesLoss('sinkhorn', blur=sqrt(epsilon / 2), scaling=0.999)(input, target)",
        lambda input, target: sinkhorn_loss(input, target, epsilon=10.0, iterations=50),
        _twice_geomloss("sinkhorn", blur=math.sqrt(5.0), scaling=0.999),
        POINTS,
    ),
)
