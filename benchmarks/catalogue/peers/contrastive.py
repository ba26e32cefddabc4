"""Contrastive losses of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.catalogue.imported import Kept, layer
from benchmarks.catalogue.peer import Peer
from lossproof.losses.contrastive import (
    decoupled_contrastive_loss,
    info_nce_loss,
    nt_xent_loss,
    sup_con_loss,
)

Tensor = torch.Tensor
Loss = Callable[..., Tensor]


def lightly(name: str, **options: Any) -> Kept:
    """A loss of lightly."""
    return layer("lightly.loss", name, **options)


def metric_learning(name: str, **options: Any) -> Kept:
    """A loss of pytorch-metric-learning."""
    return layer("pytorch_metric_learning.losses", name, **options)


def _two_views(name: str, **options: Any) -> Loss:
    """A loss of pytorch-metric-learning of two views of each sample."""
    of_labelled = metric_learning(name, **options)

    def loss(input1: Tensor, input2: Tensor) -> Tensor:
        labels = torch.arange(len(input1)).repeat(2)
        value: Tensor = of_labelled(torch.cat((input1, input2)), labels)
        return value

    return loss


_OF_KEYS = metric_learning("NTXentLoss", temperature=0.07)


def _keys(query: Tensor, key: Tensor) -> Tensor:
    # The same labels, but another tensor: with one tensor it takes the keys for the queries.
    labels = torch.arange(len(query))
    value: Tensor = _OF_KEYS(query, labels, ref_emb=key, ref_labels=labels.clone())
    return value


_GENERATOR = torch.Generator().manual_seed(0)
BANK = functional.normalize(torch.randn(64, 16, generator=_GENERATOR, dtype=torch.float64), dim=1)
_WITH_BANK = lightly("NTXentLoss", temperature=0.07, memory_bank_size=(64, 16))


def _memory_bank(query: Tensor, key: Tensor) -> Tensor:
    of_views = _WITH_BANK.of(query.dtype)
    # Each call starts from the same bank, which it then adds its keys to.
    of_views.memory_bank.bank.copy_(BANK)
    of_views.memory_bank.bank_ptr.zero_()
    value: Tensor = of_views(query, key)
    return value


def _of_bank(query: Tensor, key: Tensor) -> Tensor:
    return info_nce_loss(query, key, BANK.to(query.dtype))


VIEWS = "input1 float[32,16]; input2 float[32,16]"

PEERS = (
    Peer(
        "nt_xent_loss",
        "lightly",
        "NTXentLoss(temperature=0.1)",
        nt_xent_loss,
        lightly("NTXentLoss", temperature=0.1),
        VIEWS,
    ),
    Peer(
        "nt_xent_loss",
        "pytorch-metric-learning",
        "NTXentLoss(temperature=0.1)",
        nt_xent_loss,
        _two_views("NTXentLoss", temperature=0.1),
        VIEWS,
    ),
    Peer(
        "nt_xent_loss",
        "pytorch-metric-learning",
        "NTXentLoss(temperature=0.01)",
        lambda *views: nt_xent_loss(*views, temperature=0.01),
        _two_views("NTXentLoss", temperature=0.01),
        VIEWS,
    ),
    Peer(
        "nt_xent_loss",
        "monai",
        "ContrastiveLoss(temperature=0.1)",
        nt_xent_loss,
        layer("monai.losses.contrastive", "ContrastiveLoss", temperature=0.1),
        VIEWS,
    ),
    Peer(
        "info_nce_loss",
        "pytorch-metric-learning",
        "NTXentLoss(temperature=0.07)(query, labels, ref_emb=key, ref_labels=labels)",
        info_nce_loss,
        _keys,
        "query float[32,16]; key float[32,16]",
    ),
    Peer(
        "info_nce_loss",
        "lightly",
        "NTXentLoss(temperature=0.07, memory_bank_size=(64, 16))",
        _of_bank,
        _memory_bank,
        "query float[32,16]; key float[32,16]",
        not_asked=("forward mode",),  # which refuses to set the bank
    ),
    Peer(
        "sup_con_loss",
        "pytorch-metric-learning",
        "SupConLoss(temperature=0.1)",
        sup_con_loss,
        metric_learning("SupConLoss", temperature=0.1),
        "input float[32,16]; target int[32]<5",
    ),
    Peer(
        "decoupled_contrastive_loss",
        "lightly",
        "DCLLoss(temperature=0.1)",
        decoupled_contrastive_loss,
        lightly("DCLLoss", temperature=0.1),
        VIEWS,
    ),
    Peer(
        "decoupled_contrastive_loss",
        "lightly",
        "DCLWLoss(temperature=0.1, sigma=0.5)",
        lambda *views: decoupled_contrastive_loss(*views, sigma=0.5),
        lightly("DCLWLoss", temperature=0.1, sigma=0.5),
        VIEWS,  # It takes its weights for constants, as the paper does.
        not_asked=("gradient", "second gradient", "forward mode"),
    ),
)
