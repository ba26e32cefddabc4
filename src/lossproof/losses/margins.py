"""Losses that are content once a score is on the right side by a margin."""

from __future__ import annotations

import torch

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import among, fits, flag, number, pair
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target sign[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("squared hinge", "svm", "support vector machine", "max margin"),
    peers={
        "keras": "takes labels 0 and 1, too, and turns them into -1 and 1",
        "torch": "`HingeEmbeddingLoss` is another function, of distances",
    },
)
def hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    squared: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Hinge: how far a score falls short of the margin on its own side of 0.

    .. math::
        v = \max(0, m - y\, x) \qquad \text{or its square}

    Args:
        input: scores, any shape, floating point.
        target: -1 or 1, the shape of ``input``, floating point.
        margin: the margin :math:`m`, above 0.
        squared: whether to square it; the gradient is then not bounded.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point, or an option is of the wrong type.
        ValueError: the shapes differ, a target is neither -1 nor 1, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import hinge_loss
        >>> scores, target = torch.tensor([2.0, 0.5, 0.5]), torch.tensor([1.0, 1.0, -1.0])
        >>> hinge_loss(scores, target, reduction="none")
        tensor([0.0000, 0.5000, 1.5000])

    Source:
        Cortes, Vapnik (1995), Support-vector networks.
    """
    pair(input, target)
    number("margin", margin, above=0)
    flag("squared", squared)
    if mask is not None:
        fits("mask", mask, input, kind="bool")
    among("target", target, (-1, 1), where=mask)

    def values(input: Tensor, target: Tensor) -> Tensor:
        short = torch.relu(margin - target * input)
        return short.square() if squared else short

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


HingeLoss = as_module(hinge_loss)
