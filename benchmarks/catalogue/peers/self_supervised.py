"""Self-supervised losses of other libraries."""

from __future__ import annotations

import torch

from benchmarks.catalogue.imported import layer
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


_VICREG = metric_learning("VICRegLoss")
_NEGATIVE_COSINE = lightly("NegativeCosineSimilarity")
_DINO = lightly("DINOLoss", output_dim=6)


def _metric_learning_vicreg(input1: Tensor, input2: Tensor) -> Tensor:
    value: Tensor = _VICREG(input1, ref_emb=input2)
    return value


def _lightly_dino(student: Tensor, teacher: Tensor) -> Tensor:
    of_views = _DINO.of(student.dtype)
    # Each call starts from a centre of 0, which it then moves.
    of_views.center.zero_()
    value: Tensor = of_views(list(teacher.unbind(1)), list(student.unbind(1)))
    return value


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
        layer("monai.losses", "BarlowTwinsLoss", lambd=0.005),
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
        lambda p, z: _NEGATIVE_COSINE(p, z.detach()),
        PAIR,
    ),
    Peer(
        "negative_cosine_loss",
        "torch",
        "cosine_embedding_loss(p, z.detach(), ones)",
        lambda p, z: 1 + negative_cosine_loss(p, z),
        lambda p, z: torch.nn.functional.cosine_embedding_loss(p, z.detach(), torch.ones(len(p))),
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
