"""Regression losses that measure an error relative to the size of the target."""

from __future__ import annotations

import torch

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import fits, pair, within
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input positive[8,4]; target unit[8,4]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="MSLELoss",
    also=("mean squared logarithmic error", "rmsle"),
    peers={
        "torchmetrics": "the same, as a metric",
        "keras": "raises what is below 1e-7 to it, where the gradient then is 0",
    },
)
def msle_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Squared logarithmic error: ratios count, so that large targets do not rule the rest.

    .. math::
        v = \left( \log(1 + \hat y) - \log(1 + y) \right)^2

    Args:
        input: predictions :math:`\hat y` of at least 0, any shape, floating point.
        target: targets :math:`y` of at least 0, the shape of ``input``.
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
        ValueError: the shapes differ, a value that counts is negative, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import msle_loss
        >>> msle_loss(torch.tensor([1.0, 99.0]), torch.tensor([0.0, 199.0]), reduction="none")
        tensor([0.4805, 0.4805])

    Source:
        Tofallis (2015), A better measure of relative prediction accuracy for model selection and
        model estimation; there without the 1.
    """
    pair(input, target)
    if mask is not None:
        mask = fits("mask", mask, input, kind="bool")
    within("input", input, 0, where=mask)
    within("target", target, 0, where=mask)

    def values(input: Tensor, target: Tensor) -> Tensor:
        over = input >= target
        high, low = torch.where(over, input, target), torch.where(over, target, input)
        # The logarithm of the ratio, from its excess over 1: two near values cancel exactly.
        return torch.log1p((high - low) / (1 + low)).square()

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


MSLELoss = as_module(msle_loss, name="MSLELoss")


@loss(
    inputs="input positive[8,4]; target positive[8,4]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="SMAPELoss",
    also=("symmetric mean absolute percentage error", "forecasting"),
    peers={
        "torchmetrics": "the same, with a floor of 1.17e-6 below the denominator",
        "M4 competition": "100 times this, in per cent",
        "neuralforecast": "the same; a mask is a factor",
    },
)
def smape_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Symmetric relative error: the absolute error over the mean size of prediction and target.

    .. math::
        v = \frac{2\,|\hat y - y|}{|\hat y| + |y|}, \qquad 0 \text{ where both are } 0

    It lies between 0 and 2. Where the signs differ, or one of the two is 0, it is 2 and its
    gradient 0.

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
        >>> from lossproof.losses import smape_loss
        >>> target = torch.tensor([100.0, 0.0, 1.0])
        >>> smape_loss(torch.tensor([300.0, 0.0, -3.0]), target, reduction="none")
        tensor([1., 0., 2.])

    Source:
        Makridakis, Spiliotis, Assimakopoulos (2020), The M4 competition: 100,000 time series and
        61 forecasting methods.
    """
    pair(input, target)

    def values(input: Tensor, target: Tensor) -> Tensor:
        size = input.abs() + target.abs()
        return 2 * (input - target).abs() / torch.where(size > 0, size, 1)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


SMAPELoss = as_module(smape_loss, name="SMAPELoss")
