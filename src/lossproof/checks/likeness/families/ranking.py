"""Losses of an order: pairs of scores, and lists of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import (
    better_and_worse,
    compared_scores,
    preferences,
    scores_and_relevance,
    triplet,
)
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual

Tensor = torch.Tensor


def _margin_ranking(how: str) -> Definition:
    def terms(one: Tensor, other: Tensor, target: Tensor, *, margin: Usual = (0.0, 1.0)) -> Terms:
        y, m = target.double(), float(margin)
        if not bool((y.abs() == 1).all()):
            return {}
        sign = 1.0 if how == "opposite" else -1.0
        return {"hinge": Term(torch.relu(sign * y * (one - other) + m))}

    return terms


def _pairwise(how: str) -> Definition:
    def terms(positive: Tensor, negative: Tensor) -> Terms:
        gap = positive - negative
        if how == "sigmoid":
            return {"sigmoid": Term(torch.sigmoid(gap), -1.0)}
        if how == "log of mean":
            return {"log mean": Term(-torch.sigmoid(gap).mean().log())}
        return {"-log sigmoid(positive - negative)": Term(-F.logsigmoid(gap))}

    return terms


def _vector_pairwise(positive: Tensor, negative: Tensor) -> Terms:
    if positive.dim() < 2:
        return {}
    return {"-log sigmoid": Term(-F.logsigmoid((positive - negative).sum(-1)))}


def _three_vectors(anchor: Tensor, positive: Tensor, negative: Tensor) -> Terms:
    gap = (anchor * positive).sum(-1) - (anchor * negative).sum(-1)
    return {"-log sigmoid": Term(-F.logsigmoid(gap))}


def _pairwise_hinge(positive: Tensor, negative: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    return {"(margin - positive + negative)+": Term(
        torch.relu(float(margin) - positive + negative))}  # fmt: skip


def _list_net(how: str) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        if input.dim() != 2:
            return {}
        axis = 0 if how == "batch" else 1
        weights = torch.softmax(target.double(), axis)
        return {"-sum p log q": Term(-weights * torch.log_softmax(input, axis))}

    return terms


def _list_mle(how: str) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        if input.dim() != 2:
            return {}
        order = target.argsort(stable=True, dim=1, descending=how != "ascending")
        scores = input.gather(1, order)
        rest = scores.flip(1).logcumsumexp(1).flip(1)
        return {"log of what is left - score": Term(rest - scores)}

    return terms


def _direct_preference(how: str) -> Definition:
    def terms(
        chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor,
        *, beta: Usual = (0.1, 0.5, 1.0),
    ) -> Terms:  # fmt: skip
        gap, before = chosen - rejected, reference_chosen - reference_rejected
        logits = float(beta) * (gap + before if how == "added" else gap - before)
        if how == "ratios exchanged":
            logits = -logits
        if how == "hinge":
            return {"hinge": Term(torch.relu(1 - logits))}
        if how == "squared":
            return {"squared": Term((gap - before - 1 / (2 * float(beta))) ** 2)}
        return {"-log sigmoid": Term(-F.logsigmoid(logits))}

    return terms


LOSSES = (
    KnownLoss(
        "margin-ranking", "the margin ranking loss", "torch.nn.MarginRankingLoss",
        r"ranking|rank loss|margin rank", compared_scores,
        (
            Reading(_margin_ranking("")),
            Reading(_margin_ranking("opposite"), "ranks the other way round: y = 1 should mean "
                    "that the first input comes higher",
                    "torch.relu(-y * (x1 - x2) + margin)"),
        ),
        everyday=True,
    ),
    KnownLoss(
        "bpr", "the pairwise logistic loss", "Rendle et al., BPR, 2009; Burges et al., 2005",
        r"\bbpr|bayesian pers|rank ?net|pairwise|bradley|reward model|preference",
        better_and_worse,
        (
            Reading(_pairwise("")),
            Reading(_vector_pairwise),
            Reading(_pairwise_hinge),
            Reading(_pairwise("sigmoid"), "has no logarithm: the gradient of badly ranked pairs "
                    "vanishes", "-F.logsigmoid(positive - negative).mean()",
                    r"top 1|auc|hinge|^(?!.*(bpr|net|bradley|reward))"),
            Reading(_pairwise("log of mean"), "takes the logarithm of the mean, not the mean of "
                    "the logarithms", "-F.logsigmoid(positive - negative).mean()"),
        ),
        unlike=r"contrast|distance|hinge",
    ),
    KnownLoss(
        "bpr-vectors", "the pairwise logistic loss", "Rendle et al., BPR, 2009",
        r"\bbpr|bayesian pers", triplet, (Reading(_three_vectors),),
    ),
    KnownLoss(
        "list-net", "the ListNet loss", "Cao et al., Learning to Rank, 2007", r"list ?net",
        scores_and_relevance,
        (
            Reading(_list_net("")),
            Reading(_list_net("batch"), "takes the softmax over the queries of the batch instead "
                    "of over the documents", "F.softmax(relevance, 1), F.log_softmax(scores, 1)"),
        ),
    ),
    KnownLoss(
        "list-mle", "the ListMLE loss", "Xia et al., Listwise Approach to Learning to Rank, 2008",
        r"list ?mle", scores_and_relevance,
        (
            Reading(_list_mle("")),
            Reading(_list_mle("ascending"), "sorts the least relevant documents first",
                    "order = relevance.argsort(1, descending=True)"),
        ),
    ),
    KnownLoss(
        "dpo", "the DPO loss", "Rafailov et al., Direct Preference Optimization, 2023",
        r"\bdpo|direct pref|preference", preferences,
        (
            Reading(_direct_preference("")),
            Reading(_direct_preference("hinge")),
            Reading(_direct_preference("squared")),
            Reading(_direct_preference("added"), "adds the reference's log-ratio where it should "
                    "be subtracted", "beta * ((chosen - rejected) - (ref_chosen - ref_rejected))"),
            Reading(_direct_preference("ratios exchanged"), "prefers the rejected answer",
                    "beta * ((chosen - rejected) - (ref_chosen - ref_rejected))"),
        ),
    ),
)  # fmt: skip
