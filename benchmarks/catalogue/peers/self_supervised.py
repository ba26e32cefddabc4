"""Self-supervised losses of other libraries."""

from __future__ import annotations

import torch

from benchmarks.catalogue.peer import Peer
from benchmarks.catalogue.peers.contrastive import VIEWS, lightly, metric_learning
from lossproof.losses.self_supervised import (
    barlow_twins_loss,
    dino_loss,
    koleo_loss,
    negative_cosine_loss,
    vicreg_loss,
)

Tensor = torch.Tensor


def _monai_barlow_twins(input1: Tensor, input2: Tensor) -> Tensor:
    from monai.losses.barlow_twins import BarlowTwinsLoss

    value: Tensor = BarlowTwinsLoss(lambd=0.005)(input1, input2)
    return value


def _metric_learning_vicreg(input1: Tensor, input2: Tensor) -> Tensor:
    return metric_learning("VICRegLoss")(input1, ref_emb=input2)


def _lightly_dino(student: Tensor, teacher: Tensor) -> Tensor:
    views = list(teacher.unbind(1)), list(student.unbind(1))
    return lightly("DINOLoss", output_dim=student.shape[-1])(*views)


PAIR = "input float[16,8]; target float[16,8]"

PEERS = (
    Peer(
        "barlow_twins_loss",
        "lightly",
        "BarlowTwinsLoss()",
        barlow_twins_loss,
        lightly("BarlowTwinsLoss"),
        VIEWS,
    ),
    Peer(
        "barlow_twins_loss",
        "monai",
        "BarlowTwinsLoss()",
        barlow_twins_loss,
        _monai_barlow_twins,
        VIEWS,
        difference="it divides by the sample standard deviation (N - 1) and then by N, so that "
        "identical views have the correlation (N - 1) / N",
    ),
    Peer(
        "vicreg_loss",
        "lightly",
        "VICRegLoss()",
        vicreg_loss,
        lightly("VICRegLoss"),
        VIEWS,
    ),
    Peer(
        "vicreg_loss",
        "pytorch-metric-learning",
        "VICRegLoss()",
        vicreg_loss,
        _metric_learning_vicreg,
        VIEWS,
    ),
    Peer(
        "negative_cosine_loss",
        "lightly",
        "NegativeCosineSimilarity()",
        negative_cosine_loss,
        lambda p, z: lightly("NegativeCosineSimilarity")(p, z.detach()),
        PAIR,
    ),
    Peer(
        "negative_cosine_loss",
        "torch",
        "cosine_embedding_loss(p, z.detach(), ones) - 1",
        negative_cosine_loss,
        lambda p, z: (
            torch.nn.functional.cosine_embedding_loss(p, z.detach(), torch.ones(len(p))) - 1
        ),
        PAIR,
    ),
    Peer(
        "koleo_loss",
        "lightly",
        "KoLeoLoss()",
        koleo_loss,
        lightly("KoLeoLoss"),
        "input float[16,8]",
    ),
    Peer(
        "dino_loss",
        "lightly",
        "DINOLoss()",
        dino_loss,
        _lightly_dino,
        "student float[8,4,6]; teacher float[8,2,6]",
    ),
)
