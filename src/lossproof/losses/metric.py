"""Losses of distances: what belongs together is drawn near, what does not is pushed away."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F

from lossproof.losses._blocks import in_blocks
from lossproof.losses._distances import norm, root, squared_distances
from lossproof.losses._embeddings import embeddings, unit_vectors
from lossproof.losses._hardest import hardest
from lossproof.losses._labelled import labelled
from lossproof.losses._pair_sums import Part, sum_over_pairs
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import (
    REDUCTIONS,
    choice,
    fits,
    flag,
    integer,
    number,
    pair,
    same_device,
    tensor,
    within,
)
from lossproof.write.module import as_module
from lossproof.write.reduction import denominator, divide, reduce, usable_normalizer
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor

DISTANCES = ("euclidean", "squared_euclidean", "cosine")
MININGS = ("hard", "semihard")


def _margin(value: Any) -> float | Literal["soft"]:
    if not isinstance(value, str):
        return number("margin", value, minimum=0)
    if value != "soft":
        raise ValueError(f"`margin` must be a number of at least 0 or 'soft', got {value!r}")
    return "soft"


def _too_near(gap: Tensor, margin: float | Literal["soft"]) -> Tensor:
    """By how much the positive is too far, compared with the negative."""
    return -F.logsigmoid(-gap) if margin == "soft" else F.relu(gap + margin)


@loss(
    inputs="anchor float[6,5]; positive float[6,5]; negative float[6,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("facenet", "ranking", "swap"),
    peers={
        "torch": "adds 1e-6 to each difference, so that two equal vectors are apart by "
        "1e-6 times the root of D; NaN for p below 1; no soft margin, weights or masks",
        "optax": "sums signed differences where p is odd, so that they cancel",
        "pytorch-metric-learning": "`TripletMarginLoss` takes labels, scales the embeddings to "
        "length 1, and averages over the triplets whose loss is not 0",
    },
)
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float | Literal["soft"] = 1.0,
    p: float = 2.0,
    swap: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Triplet margin: the positive is to be nearer to the anchor than the negative, by a margin.

    .. math::
        v = \max(0,\; \|a - p\| - \|a - n\| + m)

    With ``margin="soft"`` it is :math:`\log(1 + \exp(\|a - p\| - \|a - n\|))`, which never stops
    to draw and push. The norm has derivative 0 where two vectors are equal.

    Args:
        anchor: embeddings :math:`a`, floating point.
        positive: for each anchor an embedding :math:`p` that belongs to it.
        negative: for each anchor one :math:`n` that does not.
        margin: :math:`m`, at least 0 and in the unit of the embeddings, or ``"soft"``.
        p: the degree of the norm, at least 1.
        swap: take the distance from the positive to the negative where that is the smaller one.
        weight: how much each triplet counts, shape (N,).
        mask: which triplets count, bool, shape (N,). The others may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of triplets that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Inputs: :math:`(N, D)`, or :math:`(D)` for one triplet.
        - Output: scalar; for ``"none"`` :math:`(N)` or :math:`()`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import triplet_margin_loss
        >>> anchor = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> positive = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        >>> negative = torch.tensor([[0.0, 4.5], [0.0, 4.0]])
        >>> triplet_margin_loss(anchor, positive, negative, reduction="none")
        tensor([1.5000, 0.0000])

    Source:
        Schroff, Kalenichenko, Philbin (2015), FaceNet: a unified embedding for face recognition
        and clustering; Balntas, Riba, Ponsa, Mikolajczyk (2016), Learning local feature
        descriptors with triplets and shallow convolutional neural networks (the swap).
    """
    pair(anchor, positive, ("anchor", "positive"))
    pair(anchor, negative, ("anchor", "negative"))
    embeddings("anchor", anchor, 1, 2, layout="(N, D) or (D)")
    margin = _margin(margin)
    number("p", p, minimum=1)
    flag("swap", swap)
    axis = anchor.ndim - 1

    def values(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        near, far = norm(anchor - positive, p, axis), norm(anchor - negative, p, axis)
        if swap:
            far = torch.minimum(far, norm(positive - negative, p, axis))
        return _too_near(near - far, margin)

    return reduce_swept(
        values,
        (anchor, positive, negative),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        class_axis=True,
    )


TripletMarginLoss = as_module(triplet_margin_loss)


@loss(
    inputs="input float[6,5]; target int[6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=True,
    also=("batch hard", "hard mining", "semi-hard", "person re-identification"),
    peers={
        "pytorch-metric-learning": "`TripletMarginLoss` with `BatchHardMiner`: scales the "
        "embeddings to length 1, averages over the triplets whose loss is not 0, and adds the "
        "margin inside the soft form; `torch.cdist` has no second derivative",
        "tensorflow-addons": "`TripletHardLoss` has the same values; its mean is over all anchors, "
        "also those without a positive",
    },
)
def batch_hard_triplet_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float | Literal["soft"] = 1.0,
    mining: str = "hard",
    distance: str = "euclidean",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Batch-hard triplet: each anchor with its farthest positive and its nearest negative.

    .. math::
        v_i = \max\Bigl(0,\; \max_{p:\, y_p = y_i} d(x_i, x_p)
        - \min_{n:\, y_n \ne y_i} d(x_i, x_n) + m\Bigr)

    With ``margin="soft"`` it is the softplus of the difference, without a margin. ``"semihard"``
    takes the nearest negative that is farther away than the positive, as FaceNet does. An anchor
    without a positive or such a negative does not count. Embeddings are taken as they are; scale
    them to length 1 where their length should not matter.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        input: embeddings :math:`x`, floating point.
        target: the label :math:`y` of each sample, any integers.
        margin: :math:`m`, at least 0 and in the unit of the distance, or ``"soft"``.
        mining: which negative is taken, ``"hard"`` or ``"semihard"``.
        distance: ``"euclidean"``, ``"squared_euclidean"`` (FaceNet), or ``"cosine"``, which is 1
            less the cosine.
        weight: how much each anchor counts, shape (N,).
        ignore_index: the label of samples that do not count, neither as anchors nor beside others.
            They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the anchors that have a positive and a negative, without weights by their
            number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, D)`, target: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import batch_hard_triplet_loss
        >>> input = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
        >>> batch_hard_triplet_loss(input, torch.tensor([0, 0, 1, 1]), reduction="none")
        tensor([0., 2., 4., 0.])

    Source:
        Hermans, Beyer, Leibe (2017), In defense of the triplet loss for person re-identification.
    """
    margin = _margin(margin)
    choice("mining", mining, MININGS)
    choice("distance", distance, DISTANCES)
    batch = labelled(input, target, ignore_index)
    vectors = unit_vectors(batch.vectors) if distance == "cosine" else batch.vectors
    # Which pairs are the hardest is looked up among all; only their distances have a gradient.
    positive, negative, counts = hardest(batch._replace(vectors=vectors.detach()), mining)
    near = _distance(vectors - vectors.index_select(0, positive), distance)
    far = _distance(vectors - vectors.index_select(0, negative), distance)
    values = _too_near(near - far, margin)
    return reduce(values, weight, reduction, mask=counts, normalizer=normalizer)


def _distance(difference: Tensor, distance: str) -> Tensor:
    if distance == "euclidean":
        return norm(difference)
    square = difference.square().sum(-1)
    return square / 2 if distance == "cosine" else square  # of vectors of length 1


BatchHardTripletLoss = as_module(batch_hard_triplet_loss)


@loss(
    inputs="input1 float[6,5]; input2 float[6,5]; target int[6]<2",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("siamese", "hadsell", "pairs"),
    peers={
        "pytorch-metric-learning": "`ContrastiveLoss` takes labels and all pairs, is linear in the "
        "distance, and adds the means over the positive and the negative pairs whose loss is not 0",
        "sentence-transformers": "`ContrastiveLoss` is the same function of the cosine distance",
        "torch": "`hinge_embedding_loss` takes the distance, and is linear in it; labels 1 and -1",
    },
)
def contrastive_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    similar: int = 1,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Contrastive: pairs that belong together at distance 0, all others beyond a margin.

    .. math::
        v = \tfrac{1}{2} s\, d^2 + \tfrac{1}{2} (1 - s) \max(0,\; m - d)^2, \qquad
        d = \|x_1 - x_2\|

    :math:`s` is 1 for pairs that belong together. The paper labels these with 0: give
    ``similar=0`` for such targets. Two equal vectors that do not belong together have no gradient,
    for no direction leads away.

    Args:
        input1: one embedding of each pair, floating point.
        input2: the other.
        target: the label of each pair, 0 or 1, or anything between.
        margin: :math:`m`, at least 0, in the unit of the embeddings.
        similar: the label of pairs that belong together, 1 or 0.
        weight: how much each pair counts, shape (N,).
        mask: which pairs count, bool, shape (N,). The others may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Inputs: :math:`(N, D)`, or :math:`(D)` for one pair; target: :math:`(N)` or :math:`()`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: an input is not floating point, or the target is no tensor of real numbers.
        ValueError: the shapes do not fit, a label is not from 0 to 1, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import contrastive_loss
        >>> one, other = torch.tensor([[0.0], [0.0], [0.0]]), torch.tensor([[0.5], [0.5], [2.0]])
        >>> contrastive_loss(one, other, torch.tensor([1, 0, 0]), reduction="none")
        tensor([0.1250, 0.1250, 0.0000])

    Source:
        Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping.
    """
    pair(input1, input2, ("input1", "input2"))
    embeddings("input1", input1, 1, 2, layout="(N, D) or (D)")
    number("margin", margin, minimum=0)
    if integer("similar", similar) not in (0, 1):
        raise ValueError(f"`similar` must be 0 or 1, got {similar!r}")
    labels = _pair_labels(target, input1, mask)
    together = labels if similar == 1 else 1 - labels
    axis = input1.ndim - 1

    def values(input1: Tensor, input2: Tensor, together: Tensor) -> Tensor:
        square = (input1 - input2).square().sum(axis)
        apart = F.relu(margin - root(square)).square()
        return (together * square + (1 - together) * apart) / 2

    return reduce_swept(
        values,
        (input1, input2, together),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        class_axis=True,
    )


def _pair_labels(target: Any, input: Tensor, mask: Tensor | None) -> Tensor:
    """Labels 0 and 1 of pairs, in the dtype of the embeddings."""
    target = tensor("target", target, "any")
    if target.dtype != torch.bool:
        tensor("target", target, "number")
    if target.shape != input.shape[:-1]:
        raise ValueError(
            f"`target` must have one label for each pair, the shape {list(input.shape[:-1])}, "
            f"got {list(target.shape)}"
        )
    same_device(input, target, ("input1", "target"))
    if mask is not None:
        mask = fits("mask", mask, target, kind="bool")
    labels: Tensor = target.to(input.dtype)
    within("target", labels, 0, 1, where=mask)
    return labels


ContrastiveLoss = as_module(contrastive_loss)


@loss(
    inputs="input float[6,5]; target int[6]<3",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    also=("siamese", "hadsell", "all pairs"),
    peers={
        "pytorch-metric-learning": "`ContrastiveLoss` is linear in the distance between "
        "embeddings of length 1, and adds the means over the positive and the negative pairs whose "
        "loss is not 0; `torch.cdist` has no second derivative",
    },
)
def pairwise_contrastive_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Contrastive loss of all pairs of a batch; those of one label belong together.

    .. math::
        v_i = \frac{1}{N - 1} \sum_{j \ne i} \begin{cases}
        \tfrac{1}{2} d_{ij}^2 & \text{if } y_i = y_j \\
        \tfrac{1}{2} \max(0,\; m - d_{ij})^2 & \text{otherwise}
        \end{cases} \qquad d_{ij} = \|x_i - x_j\|

    The mean is the mean of :func:`contrastive_loss` over all pairs. Distances are right also where
    two embeddings are close together and far from the others.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not for ``reduction="none"``, weights that are learned and second derivatives, in a compiled
    graph, under ``torch.func`` and in forward mode.

    Args:
        input: embeddings :math:`x`, floating point.
        target: the label :math:`y` of each sample, any integers.
        margin: :math:`m`, at least 0, in the unit of the embeddings.
        weight: how much each sample counts with its pairs, shape (N,).
        ignore_index: the label of samples that do not count, neither by themselves nor beside
            others. They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, D)`, target: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import pairwise_contrastive_loss
        >>> input = torch.tensor([[0.0], [0.5], [0.5]])
        >>> pairwise_contrastive_loss(input, torch.tensor([0, 0, 1]), reduction="none")
        tensor([0.1250, 0.3125, 0.3125])

    Source:
        Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping.
    """
    number("margin", margin, minimum=0)
    choice("reduction", reduction, REDUCTIONS)
    vectors, labels, counts = labelled(input, target, ignore_index)
    others = (counts.sum() - 1).clamp(min=1)  # in as many pairs is each sample

    def doubled(vectors: Tensor) -> Tensor:
        square = squared_distances(vectors)
        same = labels.unsqueeze(1) == labels
        each = torch.where(same, square, F.relu(margin - root(square)).square())
        return torch.where(counts, each, 0.0).sum(1)

    if reduction == "none":
        return reduce(doubled(vectors) / (2 * others), weight, reduction, mask=counts)
    items = vectors.detach()[:, 0]
    if weight is not None:
        weight = torch.where(counts, fits("weight", weight, items), 0.0).expand_as(items)
        weight = weight.to(items.dtype)
    factor = counts if weight is None else weight

    def formula(vectors: Tensor) -> Tensor:
        return (doubled(vectors) * factor).sum()

    def of_pairs(square: Tensor, rows: slice, columns: slice, _: bool) -> tuple[Tensor, Tensor]:
        return _doubled_contrast(square, labels[rows].unsqueeze(1) == labels[columns], margin)

    count = labels.shape[0]
    learned = weight is not None and weight.requires_grad
    if learned or not in_blocks(count * count, (vectors, labels, factor)):
        total = formula(vectors)
    else:
        every, factors = range(count), (factor.to(items.dtype), counts.to(items.dtype))
        parts = [Part(every, every, factors)]
        total = sum_over_pairs(of_pairs, formula, vectors, parts).to(items.dtype)
    total = total / (2 * others)
    if reduction == "sum":
        return total
    return divide(total, denominator(items, weight, counts, usable_normalizer(normalizer)))


def _doubled_contrast(square: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Twice the value of pairs, and its derivative in the squared distance."""
    inverse = F.threshold(square, 0.0, torch.inf).rsqrt_()  # 1 / d, and 0 for 0
    gap = (square * inverse).neg_().add_(margin).clamp_(min=0)
    slope = torch.where(same, 1.0, inverse.mul_(gap).neg_())
    return torch.where(same, square, gap.square_()), slope


PairwiseContrastiveLoss = as_module(pairwise_contrastive_loss)
