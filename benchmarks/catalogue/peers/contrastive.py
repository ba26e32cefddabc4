"""Contrastive losses of other libraries."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.catalogue.peer import Peer
from lossproof.losses.contrastive import (
    decoupled_contrastive_loss,
    info_nce_loss,
    nt_xent_loss,
    sup_con_loss,
)

Tensor = torch.Tensor
Loss = Callable[..., Tensor]


def lightly(name: str, **options: Any) -> Loss:
    """A loss of lightly, whose package needs torchvision, though these losses do not.

    A torchvision without its compiled operators cannot be imported, because it describes them to
    torch in the module that is replaced here.
    """

    def loss(*tensors: Any) -> Tensor:
        value: Tensor = _lightly_module(name, **options)(*tensors)
        return value

    return loss


def _lightly_module(name: str, **options: Any) -> Any:
    described = "torchvision._meta_registrations"
    sys.modules.setdefault(described, types.ModuleType(described))
    return getattr(importlib.import_module("lightly.loss"), name)(**options)


def metric_learning(name: str, **options: Any) -> Loss:
    """A loss of pytorch-metric-learning."""

    def loss(*tensors: Any, **references: Any) -> Tensor:
        losses = importlib.import_module("pytorch_metric_learning.losses")
        value: Tensor = getattr(losses, name)(**options)(*tensors, **references)
        return value

    return loss


def _two_views(name: str, **options: Any) -> Loss:
    """A loss of pytorch-metric-learning of two views of each sample."""

    def loss(input1: Tensor, input2: Tensor) -> Tensor:
        labels = torch.arange(len(input1)).repeat(2)
        return metric_learning(name, **options)(torch.cat((input1, input2)), labels)

    return loss


def _keys(query: Tensor, key: Tensor) -> Tensor:
    # The same labels, but another tensor: with one tensor it takes the keys for the queries.
    labels = torch.arange(len(query))
    return metric_learning("NTXentLoss", temperature=0.07)(
        query, labels, ref_emb=key, ref_labels=labels.clone()
    )


def _memory_bank(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    loss = _lightly_module("NTXentLoss", temperature=0.07, memory_bank_size=tuple(negatives.shape))
    loss.memory_bank.bank = functional.normalize(negatives.detach(), dim=1)
    loss.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    value: Tensor = loss(query, key)
    return value


def _monai(input1: Tensor, input2: Tensor) -> Tensor:
    from monai.losses.contrastive import ContrastiveLoss

    value: Tensor = ContrastiveLoss(temperature=0.1)(input1, input2)
    return value


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
        difference="it adds the smallest normal number to the softmax before the log, so that no "
        "term exceeds 87 in float32, and has no gradient from there on",
    ),
    Peer(
        "nt_xent_loss",
        "monai",
        "ContrastiveLoss(temperature=0.1)",
        nt_xent_loss,
        _monai,
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
        info_nce_loss,
        _memory_bank,
        "query float[32,16]; key float[32,16]; negatives float[64,16]",
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
        VIEWS,
    ),
)
