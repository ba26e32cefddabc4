"""Losses that bring the embeddings of images and of their texts together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from lossproof.losses._embeddings import (
    counting,
    embedding_pair,
    kept_rows,
    log_sum_exp,
    not_diagonal,
    scalar,
    unit_vectors,
)
from lossproof.losses._others import Side, apart, many_pairs, samples_of_rank
from lossproof.losses._rank_means import reduce_on_ranks
from lossproof.losses.catalogue import loss
from lossproof.losses.contrastive import cross_entropy_of_positive, each_among_others
from lossproof.speed.pairing import pairs
from lossproof.speed.ranks import usable_ranks
from lossproof.write.arguments import axes, fits, tensor
from lossproof.write.module import as_module

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Tensor = torch.Tensor


@loss(
    inputs=(
        "image float[6,5]; text float[6,5]",
        "image float[6,5]; text float[6,5]; logit_scale positive[]",
    ),
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    module="CLIPLoss",
    also=("image-text contrastive", "itc", "multimodal", "open_clip"),
    peers={
        "open_clip": "the same function; it does not normalise what it is given",
        "transformers": "`clip_loss` takes the logits, as this does where there is no `text`",
    },
)
def clip_loss(
    image: Tensor,
    text: Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    across_ranks: bool | ProcessGroup = False,
) -> Tensor:
    r"""CLIP: find the text of each image and the image of each text.

    .. math::
        v_i = -\tfrac{1}{2} \left( \log \frac{\exp l_{ii}}{\sum_j \exp l_{ij}}
        + \log \frac{\exp l_{ii}}{\sum_j \exp l_{ji}} \right), \qquad
        l_{ij} = t \cos(x_i, y_j)

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        image: embeddings :math:`x` of images, floating point; their length does not matter. Without
            ``text``, the logits :math:`l` themselves.
        text: embeddings :math:`y` of their texts, in the same order.
        logit_scale: :math:`t`, one over the temperature, positive: a number or a tensor of one that
            is learned. A model that keeps the logarithm passes ``log_scale.exp()``. Without it
            :math:`1 / 0.07`, with which CLIP begins. Not for logits, which are scaled already.
        weight: how much each pair counts, shape (N,).
        mask: which pairs count, bool, shape (N,). The others are no negatives either; they may be
            NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.
        across_ranks: ``True``, or a process group: the images and texts of all ranks are compared
            with. Each rank has the loss of its own pairs; their numbers may differ. Gradients go
            back to the rank they belong to, and ``"mean"`` divides by the mean over the ranks of
            what counts, so that ``DistributedDataParallel`` trains as one process would with the
            whole batch. A process that is alone has the whole batch. Not for logits.

    Shape:
        - Image and text: :math:`(N, D)`; logits: :math:`(N, N)`, a row for each image.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import clip_loss
        >>> image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> text = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        >>> clip_loss(image, text, 1.0)
        tensor(0.4912)
        >>> clip_loss(torch.tensor([[1.0, 0.7071], [0.0, 0.7071]]))
        tensor(0.4912)

    Source:
        Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger,
        Sutskever (2021), Learning transferable visual models from natural language supervision.
    """
    if text is None:
        if logit_scale is not None:
            raise ValueError("`logit_scale` must be None for logits, which are scaled already")
        if usable_ranks(across_ranks) is not False:
            raise ValueError("`across_ranks` must be False for logits: each rank has its own alone")
        counts, logits = _given_logits(image, mask)
        values = (_among_logits(logits, counts) + _among_logits(logits.T, counts)) / 2
    else:
        image, text = embedding_pair(image, text, ("image", "text"))
        counts = counting(mask, image)
        scale = 1 / 0.07 if logit_scale is None else logit_scale
        scale = scalar("logit_scale", scale, image, above=0)
        image, text = _scaled_units(image, text, scale, counts)
        values = each_among_others(image, text, counts, both_ways=True, across_ranks=across_ranks)
    return reduce_on_ranks(
        values,
        weight,
        reduction,
        mask=counts,
        normalizer=normalizer,
        across_ranks=across_ranks,
    )


def _given_logits(logits: Tensor, mask: Tensor | None) -> tuple[Tensor | None, Tensor]:
    axes("image", tensor("image", logits), 2, layout="(N, N) without `text`")
    if logits.shape[0] != logits.shape[1]:
        raise ValueError(
            f"`image` must have the shape (N, N) without `text`, got {list(logits.shape)}"
        )
    if mask is None:
        return None, logits
    items = logits.detach().diagonal()
    counts = fits("mask", mask, items, kind="bool").expand_as(items)
    return counts, torch.where(counts & counts.unsqueeze(1), logits, 0.0)


def _among_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The cross entropy of each entry of the diagonal of (N, N) in its row."""
    others, some = log_sum_exp(logits, not_diagonal(logits), mask)
    return cross_entropy_of_positive(logits.diagonal(), others, some)


def _scaled_units(
    image: Tensor, text: Tensor, scale: float | Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Embeddings whose products are the cosines, times a scale."""
    image, text = (unit_vectors(kept_rows(rows, mask)) for rows in (image, text))
    return image * scale, text


CLIPLoss = as_module(clip_loss, name="CLIPLoss")


@loss(
    inputs=(
        "image float[6,5]; text float[6,5]",
        "image float[6,5]; text float[6,5]; logit_scale positive[]; logit_bias float[]",
    ),
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    module="SigLIPLoss",
    also=("image-text contrastive", "pairwise sigmoid", "multimodal"),
    peers={"open_clip": "the same function; it does not normalise what it is given"},
)
def siglip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    across_ranks: bool | ProcessGroup = False,
) -> Tensor:
    r"""SigLIP: for each image and each text, whether they belong together.

    .. math::
        v_i = -\sum_j \log \sigma(z_{ij} l_{ij}), \qquad l_{ij} = t \cos(x_i, y_j) + b, \qquad
        z_{ij} = \begin{cases} 1 & i = j \\ -1 & i \ne j \end{cases}

    The pairs of a large batch are gone through in blocks, so that memory grows with :math:`N`; but
    not in a compiled graph, under ``torch.func`` and in forward mode.

    Args:
        image: embeddings :math:`x` of images, floating point; their length does not matter.
        text: embeddings :math:`y` of their texts, in the same order.
        logit_scale: :math:`t`, positive: a number or a tensor of one that is learned. A model that
            keeps the logarithm passes ``log_scale.exp()``.
        logit_bias: :math:`b`: a number or a tensor of one that is learned. It begins far below 0,
            since nearly all pairs are negative.
        weight: how much each image counts, shape (N,).
        mask: which pairs count, bool, shape (N,). The others are no negatives either; they may be
            NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of images that count.
        normalizer: what ``"mean"`` divides by instead.
        across_ranks: ``True``, or a process group: the texts of all ranks are compared with. Each
            rank has the loss of its own images; their numbers may differ. Gradients go back to the
            rank they belong to, and ``"mean"`` divides by the mean over the ranks of what counts,
            so that ``DistributedDataParallel`` trains as one process would with the whole batch. A
            process that is alone has the whole batch.

    Shape:
        - Image and text: :math:`(N, D)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import siglip_loss
        >>> image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> text = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        >>> siglip_loss(image, text, reduction="none")
        tensor([0.7452, 2.9811])

    Source:
        Zhai, Mustafa, Kolesnikov, Beyer (2023), Sigmoid loss for language image pre-training.
    """
    image, text = embedding_pair(image, text, ("image", "text"))
    scale = scalar("logit_scale", logit_scale, image, above=0)
    bias = scalar("logit_bias", logit_bias, image)
    counts = counting(mask, image)
    rows = _scaled_units(image, text, scale, counts)
    sample = samples_of_rank(image, across_ranks)
    images, texts = (Side(vectors, sample, counts).given() for vectors in rows)
    if many_pairs(*rows, across_ranks=across_ranks):
        values = pairs(_of_pairs, "sum", across_ranks=across_ranks)(images, texts, bias=bias)
    else:
        values = _of_pairs(images, texts, bias=bias).sum(1)
    return reduce_on_ranks(
        values,
        weight,
        reduction,
        mask=counts,
        normalizer=normalizer,
        across_ranks=across_ranks,
    )


def _of_pairs(
    images: tuple[Tensor, ...], texts: tuple[Tensor, ...], *, bias: float | Tensor
) -> Tensor:
    """The logistic loss of each image with each text; 0 for texts that do not count."""
    image, of_image, *_ = images
    text, of_text, *counts = texts
    logits = image @ text.T + bias
    if not apart(of_image, of_text):
        logits = torch.where(of_image.unsqueeze(1) == of_text, -logits, logits)
    values = -F.logsigmoid(-logits)
    return torch.where(counts[0], values, 0.0) if counts else values


SigLIPLoss = as_module(siglip_loss, name="SigLIPLoss")
