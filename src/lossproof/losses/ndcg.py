"""Losses made of the normalised discounted cumulative gain (NDCG) of a ranking."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.losses.ranking import better, differences, lists
from lossproof.write.arguments import choice, integer, number, within
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor

GAINS = ("exponential", "linear")


@loss(
    inputs="input float[8,5]; target count[8,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("lambdarank", "lambdaloss", "ndcg", "learning to rank"),
    stops_gradient="the change of the NDCG by which each pair is weighted",
    peers={
        "allRank": "`lambdaLoss` with `lambdaRank_scheme`: in bits, summed over all lists; clamps "
        "the probability of a pair at 1e-10, where its gradient ends; with `k`, pairs count "
        "where both items are among the first k",
        "LightGBM, XGBoost": "the same gradient, with options that normalise it by list",
    },
)
def lambda_rank_loss(
    input: Tensor,
    target: Tensor,
    *,
    sigma: float = 1.0,
    k: int | None = None,
    gain: str = "exponential",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""LambdaRank: each pair in the wrong order costs by how much its swap would change the NDCG.

    .. math::
        v = \sum_{y_i > y_j} |\Delta_{ij}| \log\bigl(1 + \exp(-\sigma (s_i - s_j))\bigr), \qquad
        \Delta_{ij} = \frac{(g_i - g_j)(d_{r_i} - d_{r_j})}{\text{ideal DCG}}

    with the gain :math:`g = 2^y - 1`, the discount :math:`d_r = 1 / \log_2(1 + r)`, and the rank
    :math:`r` by the scores; items of equal score are ranked as the list has them. The weights
    :math:`|\Delta|` are constants for the gradient, which makes it that of the paper.

    Args:
        input: scores :math:`s`, one row for each list, floating point.
        target: relevance :math:`y \geq 0`, the shape of ``input``.
        sigma: :math:`\sigma > 0`, the steepness, in 1 / the unit of the scores.
        k: the NDCG counts the first ``k`` ranks; without it, all.
        gain: ``"exponential"``, :math:`2^y - 1`, or ``"linear"``, :math:`y`.
        weight: how much each list counts, the shape of ``input`` without its last axis or 1 where
            it is the same for all.
        mask: which items count, bool, the shape of ``input`` or 1 where it is the same for all;
            false for padding, which may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the lists that have a relevant item, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, L)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`, 0 for a list without a relevant item.

    Raises:
        TypeError: the input is not floating point, or an option is of the wrong type.
        ValueError: the shapes differ, a relevance is negative, NaN or infinite, or an option is out
            of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import lambda_rank_loss
        >>> scores = torch.tensor([[2.0, 1.0, 0.0]])
        >>> lambda_rank_loss(scores, torch.tensor([[1, 0, 2]]))
        tensor(0.7597)

    Source:
        Burges, Ragno, Le (2006), Learning to rank with nonsmooth cost functions; the loss of which
        it is the gradient: Wang, Li, Golbandi, Bendersky, Najork (2018), The LambdaLoss framework
        for ranking metric optimization.
    """
    number("sigma", sigma, above=0)
    if k is not None:
        integer("k", k, minimum=1)
    input, target, counts = lists(input, target, mask)
    gains, relevant = _gains(input, target, counts, gain, k)
    discounts = _discounts(_ranks(input, counts) + 1, k)
    change = (differences(gains) * differences(discounts)).abs().detach()
    pairs = torch.where(better(target, counts), -F.logsigmoid(sigma * differences(input)), 0.0)
    return reduce(
        (change * pairs).sum((-2, -1)), weight, reduction, mask=relevant, normalizer=normalizer
    )


@loss(
    inputs="input float[8,5]; target count[8,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="ApproxNDCGLoss",
    also=("approximate ndcg", "listwise", "learning to rank"),
    peers={
        "allRank": "`approxNDCGLoss`: the same less 1, with `alpha=1`",
        "TF-Ranking": "the same less 1, with a temperature of 0.1, which is `alpha=10`",
    },
)
def approx_ndcg_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 10.0,
    gain: str = "exponential",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""ApproxNDCG: 1 less the NDCG, with ranks that change smoothly with the scores.

    .. math::
        v = 1 - \frac{1}{\text{ideal DCG}} \sum_i \frac{g_i}{\log_2(1 + r_i)}, \qquad
        r_i = 1 + \sum_{j \neq i} \sigma\bigl(\alpha (s_j - s_i)\bigr)

    with the gain :math:`g = 2^y - 1`. The greater :math:`\alpha`, the nearer to the NDCG, and the
    flatter between its steps: scores further apart than some :math:`1/\alpha` have no gradient.

    Args:
        input: scores :math:`s`, one row for each list, floating point.
        target: relevance :math:`y \geq 0`, the shape of ``input``.
        alpha: :math:`\alpha > 0`, the steepness, in 1 / the unit of the scores.
        gain: ``"exponential"``, :math:`2^y - 1`, or ``"linear"``, :math:`y`.
        weight: how much each list counts, the shape of ``input`` without its last axis or 1 where
            it is the same for all.
        mask: which items count, bool, the shape of ``input`` or 1 where it is the same for all;
            false for padding, which may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the lists that have a relevant item, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, L)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`, 0 for a list without a relevant item.

    Raises:
        TypeError: the input is not floating point, or an option is of the wrong type.
        ValueError: the shapes differ, a relevance is negative, NaN or infinite, or an option is out
            of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import approx_ndcg_loss
        >>> scores = torch.tensor([[2.0, 1.0, 0.0]])
        >>> approx_ndcg_loss(scores, torch.tensor([[1, 0, 2]]))
        tensor(0.3115)

    Source:
        Qin, Liu, Li (2010), A general approximation framework for direct optimization of
        information retrieval measures; as a loss of networks: Bruch, Zoghi, Bendersky, Najork
        (2019), Revisiting approximate metric optimization in the age of deep neural networks.
    """
    number("alpha", alpha, above=0)
    input, target, counts = lists(input, target, mask)
    gains, relevant = _gains(input, target, counts, gain)
    order = _order(input, counts, target)
    input, gains = input.gather(-1, order), gains.gather(-1, order)
    # In the ideal order, how far each item i is from its place: the sigmoids of the items j that
    # should be behind it, less what the sigmoids of those that should be ahead lack of 1. Near a
    # perfect ranking, 1 less an NDCG of nearly 1 would be rounding error.
    place = torch.arange(input.shape[-1], device=input.device)
    side = (place - place.unsqueeze(-1)).sign().to(input.dtype)
    # By the logarithm, whose derivative is exact where the sigmoid is nearly 1, too.
    parts = side * F.logsigmoid(alpha * side * (input.unsqueeze(-2) - input.unsqueeze(-1))).exp()
    if counts is not None:
        parts = torch.where(counts.gather(-1, order).unsqueeze(-2), parts, 0.0)
    # log2(1 + r) above the ideal one
    behind = torch.log1p(parts.sum(-1) / (place + 2)) / math.log(2)
    best = torch.log2(place.to(input.dtype) + 2)
    values = (gains * behind / (best * (best + behind))).sum(-1)
    return reduce(values, weight, reduction, mask=relevant, normalizer=normalizer)


def _gains(
    input: Tensor, target: Tensor, counts: Tensor | None, gain: str, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """The gains divided by the ideal DCG, and which lists have a relevant item."""
    choice("gain", gain, GAINS)
    within("target", target, 0)
    target = target.detach().to(input.dtype)
    # Relative to the highest relevance of the list: only ratios count, and 2^128 is infinite.
    highest = target.amax(-1, keepdim=True) if target.shape[-1] else target
    relevant = highest > 0 if counts is None else counts & (highest > 0)
    if gain == "exponential":
        gains = -torch.exp2(target - highest) * torch.expm1(-math.log(2) * target)
    else:
        gains = target / torch.where(highest > 0, highest, 1)
    places = torch.arange(1, target.shape[-1] + 1, device=target.device, dtype=target.dtype)
    ideal = (gains.sort(-1, descending=True).values * _discounts(places, k)).sum(-1, keepdim=True)
    return gains / torch.where(ideal > 0, ideal, 1), relevant.any(-1)


def _discounts(ranks: Tensor, k: int | None) -> Tensor:
    """What an item counts at a rank from 1 on."""
    discounts = 1 / torch.log2(ranks + 1)
    return discounts if k is None else torch.where(ranks <= k, discounts, 0)


def _order(scores: Tensor, counts: Tensor | None, first: Tensor | None = None) -> Tensor:
    """The items by their scores, by another key first where there is one; padding comes last."""
    order = scores.detach().argsort(dim=-1, descending=True, stable=True)
    for key in (first, counts):
        if key is not None:
            again = key.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
            order = order.gather(-1, again)
    return order


def _ranks(scores: Tensor, counts: Tensor | None) -> Tensor:
    """Places from 0 on, as numbers."""
    return _order(scores, counts).argsort(-1).to(scores.dtype)


LambdaRankLoss = as_module(lambda_rank_loss)
ApproxNDCGLoss = as_module(approx_ndcg_loss, name="ApproxNDCGLoss")
