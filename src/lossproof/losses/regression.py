"""Losses between a prediction and a target that are numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import pair
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("logcosh",),
    peers={
        "keras, optax": "the same function",
        "auraloss": "`log(cosh(x))`, which is infinite from a difference of 89 on",
    },
)
def log_cosh_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Log-cosh: squared near the target, absolute far from it, and smooth everywhere.

    .. math::
        v = \log \cosh e = |e| + \log(1 + \exp(-2|e|)) - \log 2, \qquad e = \hat y - y

    Near 0 it is :math:`e^2/2`, far away :math:`|e| - \log 2`.

    Args:
        input: predictions :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
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
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import log_cosh_loss
        >>> log_cosh_loss(torch.tensor([0.0, 1.0, 100.0]), torch.zeros(3), reduction="none")
        tensor([ 0.0000,  0.4338, 99.3069])

    Source:
        Green (1990), Bayesian reconstructions from emission tomography data using a modified EM
        algorithm.
    """
    pair(input, target)

    def values(input: Tensor, target: Tensor) -> Tensor:
        size = (input - target).abs()
        return size + F.softplus(-2 * size) - math.log(2)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


LogCoshLoss = as_module(log_cosh_loss)
