"""Losses that bring the embeddings of images and of their texts together."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses._embeddings import (
    counting,
    embedding_pair,
    kept_rows,
    not_diagonal,
    scalar,
    unit_vectors,
)
from lossproof.losses.catalogue import loss
from lossproof.losses.contrastive import among_pairs
from lossproof.write.arguments import axes, fits, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

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
) -> Tensor:
    r"""CLIP: find the text of each image and the image of each text.

    .. math::
        v_i = -\tfrac{1}{2} \left( \log \frac{\exp l_{ii}}{\sum_j \exp l_{ij}}
        + \log \frac{\exp l_{ii}}{\sum_j \exp l_{ji}} \right), \qquad
        l_{ij} = t \cos(x_i, y_j)

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
        counts, logits = _given_logits(image, mask)
    else:
        image, text = embedding_pair(image, text, ("image", "text"))
        counts = counting(mask, image)
        scale = 1 / 0.07 if logit_scale is None else logit_scale
        logits = _similarity(image, text, scalar("logit_scale", scale, image, above=0), counts)
    values = (among_pairs(logits, counts) + among_pairs(logits.T, counts)) / 2
    return reduce(values, weight, reduction, mask=counts, normalizer=normalizer)


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


def _similarity(image: Tensor, text: Tensor, scale: float | Tensor, mask: Tensor | None) -> Tensor:
    """The cosine of each image with each text, times a scale."""
    image, text = (unit_vectors(kept_rows(rows, mask)) for rows in (image, text))
    return (image * scale) @ text.T


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
) -> Tensor:
    r"""SigLIP: for each image and each text, whether they belong together.

    .. math::
        v_i = -\sum_j \log \sigma(z_{ij} l_{ij}), \qquad l_{ij} = t \cos(x_i, y_j) + b, \qquad
        z_{ij} = \begin{cases} 1 & i = j \\ -1 & i \ne j \end{cases}

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
    logits = _similarity(image, text, scale, counts) + bias
    values = -F.logsigmoid(torch.where(not_diagonal(logits), -logits, logits))
    if counts is not None:
        values = torch.where(counts, values, 0.0)
    return reduce(values.sum(-1), weight, reduction, mask=counts, normalizer=normalizer)


SigLIPLoss = as_module(siglip_loss, name="SigLIPLoss")
