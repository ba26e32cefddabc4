"""Ranking losses of other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.catalogue.imported import Imported
from benchmarks.catalogue.peer import JOINED_HERE, Peer
from lossproof.losses.ndcg import approx_ndcg_loss, lambda_rank_loss
from lossproof.losses.ranking import (
    bpr_loss,
    list_mle_loss,
    list_net_loss,
    margin_ranking_loss,
    pairwise_logistic_loss,
)

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

LISTS = "input float[4,6]; target count[4,6]"


def allrank(name: str, **options: Any) -> Loss:
    """A loss of allRank."""
    return functools.partial(Imported("allrank.models.losses", name), **options)


def _well_ordered(loss: Loss) -> Loss:
    """The loss of lists whose scores fall by about 30 from one item to the next worse one."""

    def of_ordered(input: Tensor, target: Tensor) -> Tensor:
        place = target.argsort(-1).argsort(-1)
        return loss(input + 30 * place, target)

    return of_ordered


def _one_less(gain: Loss) -> Loss:
    return lambda input, target: 1 + gain(input, target)


def _soft_margin(positive: Tensor, negative: Tensor) -> Tensor:
    return functional.soft_margin_loss(positive - negative, torch.ones_like(positive))


def _sum_of_lambda_rank(**options: Any) -> Loss:
    return lambda input, target: lambda_rank_loss(input, target, reduction="sum", **options)


def _lambda_loss(**options: Any) -> Loss:
    return allrank(
        "lambdaLoss", weighing_scheme="lambdaRank_scheme", reduction_log="natural", **options
    )


PEERS = (
    Peer(
        "margin_ranking_loss", "torch", "margin_ranking_loss(margin=0.5)",
        lambda a, b, y: margin_ranking_loss(a, b, y, margin=0.5),
        lambda a, b, y: functional.margin_ranking_loss(a, b, y, margin=0.5),
        "input1 float[8]; input2 float[8]; target sign[8]",
    ),
    Peer(
        "bpr_loss", "torch", "soft_margin_loss(positive - negative, ones)",
        bpr_loss, _soft_margin, "positive float[8]; negative float[8]",
        not_asked=JOINED_HERE,
    ),
    Peer(
        "pairwise_logistic_loss", "allRank", "rankNet()",
        pairwise_logistic_loss, allrank("rankNet"), LISTS,
    ),
    Peer("list_net_loss", "allRank", "listNet()", list_net_loss, allrank("listNet"), LISTS),
    Peer(
        "list_net_loss", "allRank", "listNet(), lists in order",
        _well_ordered(list_net_loss), _well_ordered(allrank("listNet")), LISTS,
        "adds 1e-10 inside the logarithm: an item 30 below the first costs 23",
        only_compared=True,
    ),
    Peer(
        "list_net_loss", "torch", "cross_entropy(scores, relevance.softmax(1))",
        list_net_loss,
        lambda s, y: functional.cross_entropy(s, y.softmax(1)), LISTS,
    ),
    Peer(
        "list_mle_loss", "allRank", "listMLE()",
        list_mle_loss, allrank("listMLE"), "input float[4,6]; target float[4,6]",
    ),
    Peer(
        "list_mle_loss", "allRank", "listMLE(), lists in order",
        _well_ordered(list_mle_loss), _well_ordered(allrank("listMLE")),
        "input float[4,6]; target float[4,6]",
        "adds 1e-10 inside the logarithm of sums relative to the best score of the whole list",
        only_compared=True,
    ),
    Peer(
        "lambda_rank_loss", "allRank",
        'lambdaLoss(weighing_scheme="lambdaRank_scheme", reduction_log="natural")',
        _sum_of_lambda_rank(), _lambda_loss(), LISTS,
    ),
    Peer(
        "lambda_rank_loss", "allRank",
        'lambdaLoss(weighing_scheme="lambdaRank_scheme", reduction_log="natural", k=3)',
        _sum_of_lambda_rank(k=3), _lambda_loss(k=3), LISTS,
        "leaves out pairs of which one item is ranked below k, though their swap changes NDCG@k",
    ),
    Peer(
        "approx_ndcg_loss", "allRank", "1 + approxNDCGLoss()",
        lambda s, y: approx_ndcg_loss(s, y, alpha=1.0),
        _one_less(allrank("approxNDCGLoss")), LISTS,
    ),
)  # fmt: skip
