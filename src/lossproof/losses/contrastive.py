"""Losses that draw embeddings of the same thing together and push all others away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from lossproof.losses._embeddings import (
    counting,
    embedding_pair,
    embeddings,
    kept_rows,
    log_sum_exp,
    scalar,
    unit_vectors,
)
from lossproof.losses._others import (
    Side,
    among_others,
    among_others_both_ways,
    samples_of_rank,
)
from lossproof.losses._positives import among_labelled
from lossproof.losses._rank_means import reduce_on_ranks
from lossproof.losses.catalogue import loss
from lossproof.speed.ranks import usable_ranks
from lossproof.write.arguments import axes, flag, integer, number, same_device, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Tensor = torch.Tensor


def cross_entropy_of_positive(positive: Tensor, others: Tensor, some: Tensor) -> Tensor:
    """The cross entropy of one positive among others, of which the log-sum-exp is given.

    ``log(1 + exp(others - positive))`` keeps its relative accuracy where the positive stands out;
    the log-sum-exp over all, minus the positive, would round to 0 there.
    """
    return torch.where(some, -F.logsigmoid(positive - others), 0.0)


@loss(
    inputs="query float[6,5]; key float[6,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    module="InfoNCELoss",
    also=("moco", "cpc", "noise contrastive estimation", "queue", "n-pairs"),
    peers={
        "pytorch-metric-learning": "`NTXentLoss` with reference embeddings is the same function, "
        "with dead gradients at a temperature of 0.01",
        "lightly": "`NTXentLoss` with a memory bank; the bank is part of the loss",
    },
)
def info_nce_loss(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    across_ranks: bool | ProcessGroup = False,
) -> Tensor:
    r"""InfoNCE: find the key of each query among the keys of others, or among negatives.

    .. math::
        v_i = -\log \frac{\exp(s(q_i, k_i))}{\exp(s(q_i, k_i)) + \sum_{n} \exp(s(q_i, n))}, \qquad
        s(q, k) = \frac{\cos(q, k)}{\tau}

    The negatives :math:`n` are the keys of all other queries, or, where ``negatives`` are given,
    these alone: a queue, as in MoCo. A vector of zeros has the similarity 0 with all others.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode, nor with ``negatives``.

    Args:
        query: embeddings, floating point; their length does not matter.
        key: the embedding that belongs to each query.
        negatives: embeddings that belong to no query, or for each query some that do not belong
            to it.
        temperature: :math:`\tau`, a positive number, or a tensor of one that may be learned.
        symmetric: average with the loss of finding the query of each key. Not with ``negatives``.
        weight: how much each query counts, shape (N,).
        mask: which pairs count, bool, shape (N,). The others are no negatives either; they may be
            NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of queries that count.
        normalizer: what ``"mean"`` divides by instead.
        across_ranks: ``True``, or a process group: the keys of all ranks count as negatives. Each
            rank has the loss of its own queries; their numbers may differ. Gradients go back to the
            rank they belong to, and ``"mean"`` divides by the mean over the ranks of what counts,
            so that ``DistributedDataParallel`` trains as one process would with the whole batch. A
            process that is alone has the whole batch. Not with ``negatives``.

    Shape:
        - Query and key: :math:`(N, D)`, negatives: :math:`(M, D)` or :math:`(N, M, D)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import info_nce_loss
        >>> query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> key = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        >>> info_nce_loss(query, key, temperature=1.0, reduction="none")
        tensor([0.5574, 0.4008])

    Source:
        van den Oord, Li, Vinyals (2018), Representation learning with contrastive predictive
        coding; He, Fan, Wu, Xie, Girshick (2020), Momentum contrast for unsupervised visual
        representation learning (the queue).
    """
    query, key = embedding_pair(query, key, ("query", "key"))
    temperature = scalar("temperature", temperature, query, above=0)
    counts = counting(mask, query)
    query, key = unit_vectors(kept_rows(query, counts)), unit_vectors(kept_rows(key, counts))
    query = query / temperature
    if flag("symmetric", symmetric) and negatives is not None:
        raise ValueError("`symmetric` must be False where `negatives` are given: keys have none")
    if negatives is None:
        values = each_among_others(
            query, key, counts, both_ways=symmetric, across_ranks=across_ranks
        )
    elif usable_ranks(across_ranks) is False:
        values = _among_negatives(query, key, negatives, counts)
    else:
        raise ValueError(
            "`across_ranks` must be False where `negatives` are given: they are all there are"
        )
    return reduce_on_ranks(
        values,
        weight,
        reduction,
        mask=counts,
        normalizer=normalizer,
        across_ranks=across_ranks,
    )


def each_among_others(
    first: Tensor, second: Tensor, counts: Tensor | None, *, both_ways: bool, across_ranks: Any
) -> Tensor:
    """The cross entropy of the row that belongs to each of the first, among all of the second.

    Args:
        first: (N, D). Products with the second are logits.
        second: (N, D).
        counts: which pairs of rows count, (N,).
        both_ways: average with that of the row of the first that belongs to each of the second.
        across_ranks: whether the rows of other ranks are among them.
    """
    sample = samples_of_rank(first, across_ranks)
    sides = Side(first, sample, counts), Side(second, sample, counts)
    own = (first * second).sum(-1)
    if not both_ways:
        others = among_others(*sides, across_ranks=across_ranks)
        return cross_entropy_of_positive(own, *others)
    rows, columns = among_others_both_ways(*sides, across_ranks=across_ranks)
    values = cross_entropy_of_positive(own, *rows) + cross_entropy_of_positive(own, *columns)
    return values / 2


def _among_negatives(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    mask: Tensor | None,
) -> Tensor:
    embeddings("negatives", negatives, 2, 3, layout="(M, D) or (N, M, D)")
    same_device(negatives, query, ("negatives", "query"))
    wanted = (query.shape[1],) if negatives.ndim == 2 else query.shape
    if (*negatives.shape[:-2], negatives.shape[-1]) != tuple(wanted):
        raise ValueError(
            f"`negatives` must have the shape (M, D) or (N, M, D) for `query` of shape "
            f"{list(query.shape)}, got {list(negatives.shape)}"
        )
    negatives = negatives.to(query.dtype)
    if negatives.ndim == 2:
        logits = query @ unit_vectors(negatives).T
    else:
        own = kept_rows(negatives, None if mask is None else mask.unsqueeze(1))
        logits = (unit_vectors(own) @ query.unsqueeze(-1)).squeeze(-1)
    others, some = log_sum_exp(logits)
    return cross_entropy_of_positive((query * key).sum(-1), others, some)


InfoNCELoss = as_module(info_nce_loss, name="InfoNCELoss")


def _two_views(
    input1: Tensor,
    input2: Tensor,
    temperature: float | Tensor,
    mask: Tensor | None,
    across_ranks: Any = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """What is compared for each of the 2 N views as an anchor.

    Returns:
        The logit of its positive, the log-sum-exp over the views of other samples, and whether
        there are any.
    """
    counts = None if mask is None else mask.repeat(2)
    views = unit_vectors(kept_rows(torch.cat((input1, input2)), counts))
    count = input1.shape[0]
    positive = (views[:count] * views[count:]).sum(-1) / temperature
    sample = samples_of_rank(input1, across_ranks).repeat(2)
    anchors, all_views = Side(views / temperature, sample, counts), Side(views, sample, counts)
    return positive.repeat(2), *among_others(anchors, all_views, across_ranks=across_ranks)


@loss(
    inputs="input1 float[6,5]; input2 float[6,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    module="NTXentLoss",
    also=("simclr", "ntxent", "normalized temperature-scaled cross entropy"),
    peers={
        "lightly": "the same function",
        "pytorch-metric-learning": "`log(softmax + tiny)`: no term above 87 in float32, and dead "
        "gradients beyond, as at a temperature of 0.01; memory grows with the cube of the batch",
        "monai": "`ContrastiveLoss` sums bare exponentials: NaN from a temperature of 0.02 down; "
        "memory grows with the dimension times the square of the batch",
    },
)
def nt_xent_loss(
    input1: Tensor,
    input2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    across_ranks: bool | ProcessGroup = False,
) -> Tensor:
    r"""NT-Xent: find the other view of a sample among all views of the batch, as in SimCLR.

    .. math::
        v_i = \tfrac{1}{2} (\ell_{i,i'} + \ell_{i',i}), \qquad
        \ell_{a,p} = -\log \frac{\exp(\cos(z_a, z_p) / \tau)}
        {\sum_{b \ne a} \exp(\cos(z_a, z_b) / \tau)}

    The sum runs over the other :math:`2N - 1` views. A vector of zeros has the similarity 0 with
    all others. It is exact at any temperature.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        input1: embeddings of one view of each sample, floating point; their length does not matter.
        input2: embeddings of the other view.
        temperature: :math:`\tau`, a positive number, or a tensor of one that may be learned.
        weight: how much each sample counts, shape (N,).
        mask: which samples count, bool, shape (N,). The others are no negatives either; they may be
            NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.
        across_ranks: ``True``, or a process group: the views of all ranks are compared with. Each
            rank has the loss of its own samples; their numbers may differ. Gradients go back to the
            rank they belong to, and ``"mean"`` divides by the mean over the ranks of what counts,
            so that ``DistributedDataParallel`` trains as one process would with the whole batch. A
            process that is alone has the whole batch.

    Shape:
        - Inputs: :math:`(N, D)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import nt_xent_loss
        >>> one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> nt_xent_loss(one, torch.tensor([[2.0, 0.0], [1.0, 1.0]]), temperature=1.0)
        tensor(0.8205)

    Source:
        Chen, Kornblith, Norouzi, Hinton (2020), A simple framework for contrastive learning of
        visual representations.
    """
    embedding_pair(input1, input2, ("input1", "input2"))
    temperature = scalar("temperature", temperature, input1, above=0)
    counts = counting(mask, input1)
    compared = _two_views(input1, input2, temperature, counts, across_ranks)
    values = cross_entropy_of_positive(*compared).view(2, -1).mean(0)
    return reduce_on_ranks(
        values,
        weight,
        reduction,
        mask=counts,
        normalizer=normalizer,
        across_ranks=across_ranks,
    )


NTXentLoss = as_module(nt_xent_loss, name="NTXentLoss")


@loss(
    inputs="input1 float[6,5]; input2 float[6,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    also=("dcl", "dclw"),
    peers={
        "lightly": "`DCLLoss` is the same function; `DCLWLoss` holds the weights of the positives "
        "constant, the authors' code does not",
    },
)
def decoupled_contrastive_loss(
    input1: Tensor,
    input2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    sigma: float | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Decoupled contrastive loss: NT-Xent without the positive in the denominator.

    .. math::
        v_i = \tfrac{1}{2} (\ell_{i,i'} + \ell_{i',i}), \qquad
        \ell_{a,p} = -w_i \frac{\cos(z_a, z_p)}{\tau}
        + \log \sum_{b \ne a, p} \exp(\cos(z_a, z_b) / \tau)

    The sum runs over the :math:`2N - 2` views of other samples, so that an easy positive does not
    silence the negatives. Without ``sigma`` all :math:`w_i = 1`; with it (DCLW)
    :math:`w_i = 2 - \exp(\cos(z_i, z_{i'}) / \sigma) / \operatorname{mean}_j
    \exp(\cos(z_j, z_{j'}) / \sigma)`, which dwells on the harder positives. The loss has no lower
    bound of 0. A sample without any other to contrast with does not count.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        input1: embeddings of one view of each sample, floating point; their length does not matter.
        input2: embeddings of the other view.
        temperature: :math:`\tau`, a positive number, or a tensor of one that may be learned.
        sigma: :math:`\sigma` of the weights of the positives, a positive number such as 0.5.
        weight: how much each sample counts, shape (N,).
        mask: which samples count, bool, shape (N,). The others are no negatives either; they may be
            NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Inputs: :math:`(N, D)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import decoupled_contrastive_loss
        >>> one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> other = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        >>> decoupled_contrastive_loss(one, other, temperature=1.0)
        tensor(0.2238)

    Source:
        Yeh, Hong, Hsu, Liu, Chen, LeCun (2022), Decoupled contrastive learning.
    """
    embedding_pair(input1, input2, ("input1", "input2"))
    temperature = scalar("temperature", temperature, input1, above=0)
    counts = counting(mask, input1)
    positive, others, some = _two_views(input1, input2, temperature, counts)
    if sigma is not None:
        number("sigma", sigma, above=0)
        cosine = (positive * temperature)[: input1.shape[0]]
        positive = positive * _harder_positives(cosine / sigma, counts).repeat(2)
    values = (others - positive).view(2, -1).mean(0)
    contrasted = some[: input1.shape[0]] if counts is None else some[: input1.shape[0]] & counts
    return reduce(values, weight, reduction, mask=contrasted, normalizer=normalizer)


def _harder_positives(similarity: Tensor, mask: Tensor | None) -> Tensor:
    """The weights of DCLW, whose mean over the samples that count is 1."""
    log_sum, _ = log_sum_exp(similarity, mask=mask)
    samples = similarity.shape[0] if mask is None else mask.sum()
    return 2 - samples * (similarity - log_sum).exp()


DecoupledContrastiveLoss = as_module(decoupled_contrastive_loss)


@loss(
    inputs="input float[8,6]; target int[8]<8",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    also=("supcon", "supervised contrastive"),
    peers={
        "pytorch-metric-learning": "the same function for one view; 0 for the whole batch where "
        "no two labels differ; its mean leaves out anchors whose loss is 0",
        "SupContrast (the authors' code)": "anchors without positives gave NaN (its issue 100)",
    },
)
def sup_con_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    across_ranks: bool | ProcessGroup = False,
) -> Tensor:
    r"""Supervised contrastive: find the samples of an anchor's class among all of the batch.

    .. math::
        v_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
        \frac{\exp(\cos(z_i, z_p) / \tau)}{\sum_{a \ne i} \exp(\cos(z_i, z_a) / \tau)}

    :math:`P(i)` are the others with the label of :math:`i`, among them its other views. This is
    :math:`\mathcal{L}_{out}` of the paper. An anchor without positives does not count, but is a
    negative of the others. A vector of zeros has the similarity 0 with all others.

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        input: embeddings, floating point; their length does not matter. Of one view, or of several.
        target: the label of each sample, any integers.
        temperature: :math:`\tau`, a positive number, or a tensor of one that may be learned.
        weight: how much each anchor counts, the shape of the output for ``"none"`` or 1 where it is
            the same for all.
        ignore_index: the label of samples that do not count. They are no negatives either; they
            may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the anchors that have positives, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.
        across_ranks: ``True``, or a process group: the samples of all ranks are compared with. Each
            rank has the loss of its own anchors; their numbers may differ. Gradients go back to the
            rank they belong to, and ``"mean"`` divides by the mean over the ranks of what counts,
            so that ``DistributedDataParallel`` trains as one process would with the whole batch. A
            process that is alone has the whole batch.

    Shape:
        - Input: :math:`(N, D)`, or :math:`(N, V, D)` for :math:`V` views; target: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)` or :math:`(N, V)`.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import sup_con_loss
        >>> input = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> sup_con_loss(input, torch.tensor([0, 0, 1]), temperature=1.0, reduction="none")
        tensor([0.4008, 0.6931, 0.0000])

    Source:
        Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan (2020), Supervised
        contrastive learning.
    """
    embeddings("input", input, 2, 3, layout="(N, D) or (N, V, D)")
    axes("target", tensor("target", target, "integer"), 1, layout="(N)")
    same_device(input, target, ("input", "target"))
    if input.shape[0] != target.shape[0]:
        raise ValueError(
            f"`target` must hold one label for each sample of `input`, "
            f"got {list(target.shape)} for {list(input.shape)}"
        )
    temperature = scalar("temperature", temperature, input, above=0)
    anchors = input.shape[:-1]
    # Beside uint8, an `ignore_index` of -100 would be 156.
    label = target.long().reshape(-1, *[1] * (len(anchors) - 1)).expand(anchors).flatten()
    counts = label != integer("ignore_index", ignore_index)
    views = unit_vectors(kept_rows(input.flatten(0, -2), counts))
    values, positives = among_labelled(views / temperature, views, label, counts, across_ranks)
    counted = (positives > 0) & counts
    return reduce_on_ranks(
        values.view(anchors),
        weight,
        reduction,
        mask=counted.view(anchors),
        normalizer=normalizer,
        across_ranks=across_ranks,
    )


SupConLoss = as_module(sup_con_loss)
