"""Metric losses of torch and pytorch-metric-learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.catalogue.imported import Imported, Kept
from benchmarks.catalogue.peer import JOINED_HERE, Peer
from lossproof import losses

Tensor = torch.Tensor
LIBRARY = "pytorch-metric-learning"
TRIPLETS = "anchor float[6,5]; positive float[6,5]; negative float[6,5]"
LABELLED = "input float[12,5]; target int[12]<4"


def _part(kind: str, name: str, **options: Any) -> Any:
    """A loss, miner, reducer or distance of the library."""
    return Imported(f"pytorch_metric_learning.{kind}", name)(**options)


def _euclidean() -> Any:
    """The distance of embeddings as they are; the library's default scales them to length 1."""
    return _part("distances", "LpDistance", normalize_embeddings=False)


def _labelled(
    name: str,
    *,
    distance: Callable[[], Any] | None = _euclidean,
    mean_of_all: bool = True,
    miner: tuple[str, dict[str, Any]] | None = None,
    **options: Any,
) -> Callable[..., Tensor]:
    """A loss of embeddings and labels."""

    def make() -> Callable[..., Tensor]:
        parts = dict(options)
        if distance is not None:
            parts["distance"] = distance()
        if mean_of_all:
            parts["reducer"] = _part("reducers", "MeanReducer")
        of_pairs = {} if distance is None else {"distance": distance()}
        mine = None if miner is None else _part("miners", miner[0], **miner[1], **of_pairs)
        of_batch = _part("losses", name, **parts)

        def loss(input: Tensor, target: Tensor) -> Tensor:
            pairs = () if mine is None else (mine(input, target),)
            value: Tensor = of_batch(input, target, *pairs)
            return value

        return loss

    return Kept(make)


def _of_triplets() -> Any:
    return _part(
        "losses", "TripletMarginLoss", margin=0.3, distance=_euclidean(),
        reducer=_part("reducers", "MeanReducer"),
    )  # fmt: skip


_TRIPLETS = Kept(_of_triplets)


def _triplets(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Three tensors as one batch, and which rows of it are triplets."""
    rows = torch.arange(3 * len(anchor)).chunk(3)
    value: Tensor = _TRIPLETS(torch.cat((anchor, positive, negative)), indices_tuple=tuple(rows))
    return value


def _with_vectors(
    make: Callable[[], nn.Module], parameter: str, count: int, *, transposed: bool = False
) -> Kept:
    """A Module that has learned these vectors of the classes."""

    def made() -> nn.Module:
        module = make()
        vectors = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            module.get_parameter(parameter).copy_(vectors.T if transposed else vectors)
        return module

    return Kept(made)


def _of_classes(
    loss: str,
    parameter: str,
    name: str,
    options: dict[str, Any],
    their_options: dict[str, Any],
    *,
    vectors_of_each: int = 1,
) -> Peer:
    """A Module of the library that learns vectors of classes beside ours."""
    written = ", ".join(f"{option}={value:.4g}" for option, value in their_options.items())
    of_theirs = "W" if parameter == "centers" else parameter

    sizes = {"num_classes": 5, "embedding_size": 4}
    count = 5 * vectors_of_each
    return Peer(
        loss, LIBRARY, f"{name}({written})",
        _with_vectors(lambda: getattr(losses, loss)(**sizes, **options), parameter, count),
        _with_vectors(
            lambda: _part("losses", name, **sizes, **their_options), of_theirs, count,
            transposed=of_theirs == "W",
        ),
        "input float[8,4]; target int[8]<5",
    )  # fmt: skip


def _unit(input: Tensor) -> Tensor:
    return functional.normalize(input, dim=1)


HARD = ("BatchHardMiner", {})
SEMIHARD = ("BatchEasyHardMiner", {"pos_strategy": "hard", "neg_strategy": "semihard"})

PEERS = (
    Peer(
        "triplet_margin_loss", "torch", "triplet_margin_loss(margin=0.3, eps=0)",
        lambda a, p, n: losses.triplet_margin_loss(a, p, n, margin=0.3),
        lambda a, p, n: functional.triplet_margin_loss(a, p, n, margin=0.3, eps=0.0),
        TRIPLETS,
    ),
    Peer(
        "triplet_margin_loss", "torch", "triplet_margin_loss(p=1, swap=True, eps=0)",
        lambda a, p, n: losses.triplet_margin_loss(a, p, n, p=1.0, swap=True),
        lambda a, p, n: functional.triplet_margin_loss(a, p, n, p=1.0, swap=True, eps=0.0),
        TRIPLETS,
    ),
    Peer(
        "triplet_margin_loss", "torch", "triplet_margin_with_distance_loss()",
        losses.triplet_margin_loss,
        lambda a, p, n: functional.triplet_margin_with_distance_loss(
            a, p, n, distance_function=lambda x, y: (x - y).norm(dim=1)
        ),
        TRIPLETS,
    ),
    Peer(
        "triplet_margin_loss", LIBRARY, "TripletMarginLoss(margin=0.3)(indices_tuple=triplets)",
        lambda a, p, n: losses.triplet_margin_loss(a, p, n, margin=0.3), _triplets, TRIPLETS,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "batch_hard_triplet_loss", LIBRARY, "TripletMarginLoss(margin=0.3), BatchHardMiner()",
        lambda x, y: losses.batch_hard_triplet_loss(x, y, margin=0.3),
        _labelled("TripletMarginLoss", margin=0.3, miner=HARD), LABELLED,
    ),
    Peer(
        "batch_hard_triplet_loss", LIBRARY,
        "TripletMarginLoss(smooth_loss=True, margin=0), BatchHardMiner()",
        lambda x, y: losses.batch_hard_triplet_loss(x, y, margin="soft"),
        _labelled("TripletMarginLoss", margin=0.0, smooth_loss=True, miner=HARD), LABELLED,
    ),
    Peer(
        "batch_hard_triplet_loss", LIBRARY,
        "TripletMarginLoss(margin=0.3), BatchEasyHardMiner('hard', 'semihard')",
        lambda x, y: losses.batch_hard_triplet_loss(x, y, margin=0.3, mining="semihard"),
        _labelled("TripletMarginLoss", margin=0.3, miner=SEMIHARD), LABELLED,
    ),
    Peer(
        "batch_hard_triplet_loss", LIBRARY,
        "TripletMarginLoss(distance=CosineSimilarity()), BatchHardMiner()",
        lambda x, y: losses.batch_hard_triplet_loss(x, y, margin=0.3, distance="cosine"),
        _labelled(
            "TripletMarginLoss", margin=0.3, miner=HARD,
            distance=lambda: _part("distances", "CosineSimilarity"),
        ),
        LABELLED,
    ),
    Peer(
        "batch_hard_triplet_loss", LIBRARY,
        "TripletMarginLoss(), BatchEasyHardMiner('hard', 'semihard')",
        lambda x, y: losses.batch_hard_triplet_loss(_unit(x), y, margin=0.05, mining="semihard"),
        _labelled("TripletMarginLoss", distance=None, mean_of_all=False, miner=SEMIHARD), LABELLED,
        difference="it averages over the triplets whose loss is not 0",
    ),
    Peer(
        "pairwise_contrastive_loss", LIBRARY, "ContrastiveLoss()",
        losses.pairwise_contrastive_loss, _labelled("ContrastiveLoss"), LABELLED,
        difference="it is linear in the distance, and adds the means over the positive and over "
        "the negative pairs",
    ),
    Peer(
        "multi_similarity_loss", LIBRARY, "MultiSimilarityLoss()",
        losses.multi_similarity_loss, _labelled("MultiSimilarityLoss", distance=None), LABELLED,
    ),
    Peer(
        "multi_similarity_loss", LIBRARY, "MultiSimilarityLoss(), MultiSimilarityMiner(0.1)",
        lambda x, y: losses.multi_similarity_loss(x, y, epsilon=0.1),
        _labelled(
            "MultiSimilarityLoss", distance=None,
            miner=("MultiSimilarityMiner", {"epsilon": 0.1}),
        ),
        LABELLED,
    ),
    Peer(
        "circle_loss", LIBRARY, "CircleLoss(m=0.4, gamma=80)",
        lambda x, y: losses.circle_loss(x, y, margin=0.4, gamma=80.0),
        _labelled("CircleLoss", distance=None, mean_of_all=False), LABELLED,
    ),
    _of_classes("ArcFaceLoss", "centers", "ArcFaceLoss", {}, {"margin": math.degrees(0.5)}),
    _of_classes(
        "ArcFaceLoss", "centers", "SubCenterArcFaceLoss", {"sub_centers": 2},
        {"margin": math.degrees(0.5), "sub_centers": 2},
        vectors_of_each=2,
    ),
    _of_classes("CosFaceLoss", "centers", "CosFaceLoss", {}, {}),
    _of_classes(
        "ProxyNCALoss", "proxies", "ProxyNCALoss", {"own_in_denominator": True, "scale": 3.0},
        {"softmax_scale": 3.0},
    ),
    _of_classes("ProxyAnchorLoss", "proxies", "ProxyAnchorLoss", {}, {}),
)  # fmt: skip
