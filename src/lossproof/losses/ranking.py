"""Losses that order: two items, all pairs of a list, or a whole list."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import among, axes, finite, fits, number, pair
from lossproof.write.cumulative import log_sum_following
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


def lists(
    input: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The scores and relevances of lists, 0 where an item does not count, and which items count.

    All do where nothing is said.
    """
    pair(input, target, target_kind="number")
    axes("input", input, -1, layout="(*, L)")
    fitting = _fitting(mask, input)
    finite("target", target, where=fitting)
    if fitting is None:
        return input, target, None
    counts = fitting.expand_as(input)
    return torch.where(counts, input, 0.0), torch.where(counts, target, 0), counts


def _fitting(mask: Tensor | None, values: Tensor) -> Tensor | None:
    return None if mask is None else fits("mask", mask, values, kind="bool")


def differences(scores: Tensor) -> Tensor:
    """How far each item of a list is above each other, (*, L, L)."""
    return scores.unsqueeze(-1) - scores.unsqueeze(-2)


def better(target: Tensor, counts: Tensor | None) -> Tensor:
    """Which item is more relevant than which, bool, (*, L, L)."""
    higher = target.unsqueeze(-1) > target.unsqueeze(-2)
    if counts is None:
        return higher
    return higher & counts.unsqueeze(-1) & counts.unsqueeze(-2)


def _with_items(counts: Tensor | None) -> Tensor | None:
    """Which lists have an item that counts."""
    return None if counts is None else counts.any(-1)


def _log_softmax(scores: Tensor, counts: Tensor | None) -> Tensor:
    """The log-softmax over the items that count."""
    if counts is None:
        return scores.log_softmax(-1)
    lowest = torch.finfo(scores.dtype).min  # finite, for a list in which nothing counts
    return torch.where(counts, scores, lowest).log_softmax(-1)


@loss(
    inputs="input1 float[8]; input2 float[8]; target sign[8]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("hinge ranking", "pairwise hinge"),
    peers={"torch": "the same function; it broadcasts, and takes any number as target"},
)
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    *,
    margin: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Margin ranking: the right one of two scores should be higher by a margin.

    .. math::
        v = \max\bigl(0,\; m - y \, (x_1 - x_2)\bigr)

    With the margin 0 equal scores cost nothing, so that a constant prediction is optimal; they have
    a gradient all the same, as in torch.

    Args:
        input1: scores :math:`x_1`, any shape, floating point.
        input2: scores :math:`x_2`, the shape of ``input1``.
        target: 1 where :math:`x_1` should be higher, -1 where :math:`x_2` should; the shape of
            ``input1``.
        margin: :math:`m`, by how much, in the unit of the scores.
        weight: how much each pair counts, the shape of ``input1`` or 1 where it is the same for
            all.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)` twice, target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a score is not floating point, or an option is of the wrong type.
        ValueError: the shapes differ, or the target holds other numbers than 1 and -1.

    Example:
        >>> import torch
        >>> from lossproof.losses import margin_ranking_loss
        >>> first, second = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
        >>> margin_ranking_loss(first, second, torch.tensor([1, 1]), margin=0.5, reduction="none")
        tensor([0.0000, 1.5000])

    Source:
        Herbrich, Graepel, Obermayer (2000), Large margin rank boundaries for ordinal regression.
    """
    pair(input1, input2, ("input1", "input2"))
    pair(input1, target, ("input1", "target"), target_kind="number")
    among("target", target, (-1, 1), where=_fitting(mask, target))
    number("margin", margin)

    def values(input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return (margin - target * (input1 - input2)).clamp(min=0)

    tensors = (input1, input2, target)
    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


@loss(
    inputs="positive float[8]; negative float[8]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="BPRLoss",
    also=("bayesian personalized ranking", "implicit feedback", "recommendation"),
    peers={"most copies": "`-log(sigmoid(x))`, which is infinite from a difference of -104 on"},
)
def bpr_loss(
    positive: Tensor,
    negative: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""BPR: an item that was chosen should score higher than one that was not.

    .. math::
        v = -\log \sigma(x^+ - x^-)

    The paper's regularisation of the parameters is the optimiser's weight decay.

    Args:
        positive: scores :math:`x^+` of the chosen items, any shape, floating point.
        negative: scores :math:`x^-` of the others, the shape of ``positive``.
        weight: how much each pair counts, the shape of ``positive`` or 1 where it is the same for
            all.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Positive: :math:`(*)`, negative: the same.
        - Output: scalar; for ``"none"`` the shape of the scores.

    Raises:
        TypeError: a score is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import bpr_loss
        >>> bpr_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 200.0]), reduction="none")
        tensor([  0.3133, 200.0000])

    Source:
        Rendle, Freudenthaler, Gantner, Schmidt-Thieme (2009), BPR: Bayesian personalized ranking
        from implicit feedback.
    """
    pair(positive, negative, ("positive", "negative"))

    def values(positive: Tensor, negative: Tensor) -> Tensor:
        return -F.logsigmoid(positive - negative)

    tensors = (positive, negative)
    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


@loss(
    inputs="input float[8,5]; target count[8,5]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("ranknet", "pairwise cross entropy", "learning to rank"),
    peers={
        "allRank": "`rankNet`: the same mean over pairs; NaN where no two items differ",
        "TF-Ranking": "the same loss of a pair; its mean runs over pairs, too",
    },
)
def pairwise_logistic_loss(
    input: Tensor,
    target: Tensor,
    *,
    sigma: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Pairwise logistic (RankNet): the more relevant of any two items of a list scores higher.

    .. math::
        v_{ij} = \log\bigl(1 + \exp(-\sigma (s_i - s_j))\bigr) \quad \text{where } y_i > y_j

    Items of equal relevance are no pair: they may be in any order.

    Args:
        input: scores :math:`s`, one row for each list, floating point.
        target: relevance :math:`y`, the shape of ``input``, higher is better.
        sigma: :math:`\sigma > 0`, the steepness, in 1 / the unit of the scores.
        weight: how much each pair counts, (\*, L, L) with the better item first, or 1 where it is
            the same for all: (\*, 1, 1) for a weight of each list.
        mask: which items count, bool, the shape of ``input`` or 1 where it is the same for all;
            false for padding, which may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the pairs, without weights by the number of pairs of all lists.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, L)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*, L, L)`, 0 where items are no pair.

    Raises:
        TypeError: the input is not floating point, or an option is of the wrong type.
        ValueError: the shapes differ, a relevance is NaN or infinite, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import pairwise_logistic_loss
        >>> scores = torch.tensor([[2.0, 1.0, 0.0]])
        >>> pairwise_logistic_loss(scores, torch.tensor([[2, 0, 1]]))
        tensor(0.5845)

    Source:
        Burges, Shaked, Renshaw, Lazier, Deeds, Hamilton, Hullender (2005), Learning to rank using
        gradient descent.
    """
    number("sigma", sigma, above=0)
    input, target, counts = lists(input, target, mask)
    pairs = better(target, counts)
    values = -F.logsigmoid(sigma * differences(input))
    return reduce(values, weight, reduction, mask=pairs, normalizer=normalizer)


@loss(
    inputs="input float[8,5]; target count[8,5]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("top one probability", "listwise softmax", "learning to rank"),
    peers={
        "allRank": "`listNet`: adds 1e-10 inside the logarithm, so that the loss of an item far "
        "below the others ends at 23 and its gradient at 0",
        "optax, TF-Ranking": "the relevances themselves as weights of the log-softmax, in place of "
        "their softmax",
    },
)
def list_net_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""ListNet: the probability to be the first of a list, as the scores and the relevances say it.

    .. math::
        v = -\sum_i p_i(y) \log p_i(s), \qquad p_i(s) = \frac{\exp s_i}{\sum_j \exp s_j}

    It is smallest, the entropy of :math:`p(y)`, where scores and relevances differ by a constant.

    Args:
        input: scores :math:`s`, one row for each list, floating point.
        target: relevance :math:`y`, the shape of ``input``, in the unit of the scores.
        weight: how much each list counts, the shape of ``input`` without its last axis or 1 where
            it is the same for all.
        mask: which items count, bool, the shape of ``input`` or 1 where it is the same for all;
            false for padding, which may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the lists that have items, without weights by the number of these lists.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, L)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the shapes differ, a relevance is NaN or infinite, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import list_net_loss
        >>> list_net_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1, 1, 0]]))
        tensor(1.1406)

    Source:
        Cao, Qin, Liu, Tsai, Li (2007), Learning to rank: from pairwise approach to listwise
        approach.
    """
    input, target, counts = lists(input, target, mask)
    wanted = _log_softmax(target.to(input.dtype), counts).exp()
    parts = wanted * _log_softmax(input, counts)
    if counts is not None:
        parts = torch.where(counts, parts, 0.0)
    values = -parts.sum(-1)
    return reduce(values, weight, reduction, mask=_with_items(counts), normalizer=normalizer)


@loss(
    inputs="input float[8,5]; target count[8,5]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="ListMLELoss",
    also=("plackett luce", "listwise", "learning to rank"),
    peers={
        "allRank": "`listMLE`: adds 1e-10 inside the logarithm, which turns the gradient of a well "
        "ordered list against its order; draws the order of equal relevances at random",
    },
)
def list_mle_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""ListMLE: the likelihood of the right order, drawn item by item without putting back.

    .. math::
        v = -\sum_i \log \frac{\exp s_{\pi(i)}}{\sum_{j \geq i} \exp s_{\pi(j)}}, \qquad
        y_{\pi(1)} \geq y_{\pi(2)} \geq \dots

    Items of equal relevance stay in the order in which the list has them. The sum depends on it;
    shuffle the lists where this order means nothing.

    Args:
        input: scores :math:`s`, one row for each list, floating point.
        target: relevance :math:`y`, the shape of ``input``, higher is better.
        weight: how much each list counts, the shape of ``input`` without its last axis or 1 where
            it is the same for all.
        mask: which items count, bool, the shape of ``input`` or 1 where it is the same for all;
            false for padding, which may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the lists that have items, without weights by the number of these lists.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, L)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the shapes differ, a relevance is NaN or infinite, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import list_mle_loss
        >>> list_mle_loss(torch.tensor([[20.0, 10.0, 0.0]]), torch.tensor([[2, 1, 0]]))
        tensor(9.0800e-05)

    Source:
        Xia, Liu, Wang, Zhang, Li (2008), Listwise approach to learning to rank: theory and
        algorithm.
    """
    input, target, counts = lists(input, target, mask)
    order = target.argsort(dim=-1, descending=True, stable=True)
    if counts is not None:  # padding goes to the front, where no sum over what follows meets it
        order = order.gather(-1, counts.gather(-1, order).argsort(dim=-1, stable=True))
    ordered = input.gather(-1, order)
    # The last item is drawn with certainty.
    log_likelihood = F.logsigmoid(ordered[..., :-1] - log_sum_following(ordered[..., 1:]))
    if counts is not None:
        log_likelihood = torch.where(counts.gather(-1, order)[..., :-1], log_likelihood, 0.0)
    values = -log_likelihood.sum(-1).to(input.dtype)
    return reduce(values, weight, reduction, mask=_with_items(counts), normalizer=normalizer)


MarginRankingLoss = as_module(margin_ranking_loss)
BPRLoss = as_module(bpr_loss, name="BPRLoss")
PairwiseLogisticLoss = as_module(pairwise_logistic_loss)
ListNetLoss = as_module(list_net_loss)
ListMLELoss = as_module(list_mle_loss, name="ListMLELoss")
