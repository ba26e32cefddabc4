"""Losses of all similarities in a batch, those within a class against those between classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses._embeddings import unit_vectors, with_one
from lossproof.losses._kinds import sums_of_kinds
from lossproof.losses._labelled import labelled
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import number
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input float[6,5]; target int[6]<3",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    also=("ms loss", "general pair weighting"),
    peers={
        "pytorch-metric-learning": "`MultiSimilarityLoss` is the same function, its "
        "`MultiSimilarityMiner` the mining",
        "research-ms-loss (the authors)": "mines always, and leaves out anchors whose positives or "
        "negatives are all mined away",
    },
)
def multi_similarity_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Multi-similarity: positives above a similarity, negatives below it, the hardest first.

    .. math::
        v_i = \frac{1}{\alpha} \log\Bigl(1 + \sum_{p \in P_i} \exp(-\alpha (s_{ip} - \lambda))\Bigr)
        + \frac{1}{\beta} \log\Bigl(1 + \sum_{n \in N_i} \exp(\beta (s_{in} - \lambda))\Bigr),
        \qquad s_{ij} = \cos(x_i, x_j)

    :math:`P_i` are the other samples with the label of :math:`i`, :math:`N_i` those with another.
    With ``epsilon`` only negatives nearer than the farthest positive stay, and positives farther
    than the nearest negative, each within :math:`\epsilon`. A sum of nothing is 0.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        input: embeddings :math:`x`, floating point; their length does not matter.
        target: the label of each sample, any integers.
        alpha: :math:`\alpha`, above 0.
        beta: :math:`\beta`, above 0.
        base: :math:`\lambda`, a similarity.
        epsilon: :math:`\epsilon` of the mining, 0.1 in the paper; without it all pairs are taken.
        weight: how much each anchor counts, shape (N,).
        ignore_index: the label of samples that do not count, neither as anchors nor beside others.
            They may be NaN.
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
        >>> from lossproof.losses import multi_similarity_loss
        >>> input = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> multi_similarity_loss(input, torch.tensor([0, 0, 1]), reduction="none")
        tensor([0.2991, 0.5991, 0.3000])

    Source:
        Wang, Han, Huang, Dong, Scott (2019), Multi-similarity loss with general pair weighting for
        deep metric learning.
    """
    number("alpha", alpha, above=0)
    number("beta", beta, above=0)
    number("base", base)
    if epsilon is not None:
        number("epsilon", epsilon, minimum=0)
    batch = labelled(input, target, ignore_index)
    near, far = sums_of_kinds(
        batch._replace(vectors=unit_vectors(batch.vectors)),
        lambda similarity: -alpha * (similarity - base),
        lambda similarity: beta * (similarity - base),
        epsilon,
    )
    values = with_one(*near) / alpha + with_one(*far) / beta
    return reduce(values, weight, reduction, mask=batch.counts, normalizer=normalizer)


MultiSimilarityLoss = as_module(multi_similarity_loss)


@loss(
    inputs="input float[6,5]; target int[6]<3",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    also=("pair similarity optimization",),
    stops_gradient="the weights of the similarities, as in the paper",
    peers={
        "pytorch-metric-learning": "`CircleLoss` is the same function with other defaults; its "
        "mean leaves out anchors whose loss is 0",
    },
)
def circle_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 0.25,
    gamma: float = 256.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Circle: each similarity is driven the harder, the farther it is from its optimum.

    .. math::
        v_i = \log\Bigl(1 + \sum_{n} \exp\bigl(\gamma \alpha_{in} (s_{in} - m)\bigr)
        \sum_{p} \exp\bigl(-\gamma \alpha_{ip} (s_{ip} - 1 + m)\bigr)\Bigr), \quad
        \alpha_{in} = [s_{in} + m]_+, \; \alpha_{ip} = [1 + m - s_{ip}]_+

    :math:`s` are cosines. The weights :math:`\alpha` are held constant, as in the paper, so that
    the gradient is not the derivative of the value. An anchor without a positive or without a
    negative does not count. The paper takes ``margin=0.25`` with ``gamma=256`` for faces and 128
    for persons, and ``margin=0.4`` with ``gamma=80`` for images of fine-grained classes.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        input: embeddings, floating point; their length does not matter.
        target: the label of each sample, any integers.
        margin: the relaxation :math:`m`, at least 0.
        gamma: the scale :math:`\gamma`, above 0.
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
        >>> from lossproof.losses import circle_loss
        >>> input = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> circle_loss(input, torch.tensor([0, 0, 1]), gamma=8.0, reduction="none")
        tensor([0.8429, 5.4045, 0.0000])

    Source:
        Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei (2020), Circle loss: a unified perspective of
        pair similarity optimization.
    """
    number("margin", margin, minimum=0)
    number("gamma", gamma, above=0)
    batch = labelled(input, target, ignore_index)

    def of_positives(similarity: Tensor) -> Tensor:
        return -gamma * F.relu(1 + margin - similarity.detach()) * (similarity - 1 + margin)

    def of_negatives(similarity: Tensor) -> Tensor:
        return gamma * F.relu(similarity.detach() + margin) * (similarity - margin)

    (near, any_positive), (far, any_negative) = sums_of_kinds(
        batch._replace(vectors=unit_vectors(batch.vectors)), of_positives, of_negatives
    )
    counts = batch.counts & any_positive & any_negative
    values = -F.logsigmoid(-(near + far))
    return reduce(values, weight, reduction, mask=counts, normalizer=normalizer)


CircleLoss = as_module(circle_loss)
