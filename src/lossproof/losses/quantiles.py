"""Losses for quantiles and expectiles, and for the intervals between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch

from lossproof.losses._distribution import of_items
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import number, pair
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("quantile loss", "quantile regression", "mqloss", "check loss", "newsvendor"),
    peers={
        "neuralforecast": "`QuantileLoss`, `MQLoss`: the same, with the target first",
        "pytorch-forecasting, gluonts": "twice this",
    },
)
def pinball_loss(
    input: Tensor,
    target: Tensor,
    *,
    quantiles: float | Sequence[float] = 0.5,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Pinball loss: a quantile of the target is what minimises its mean.

    .. math::
        v = \max\left( \tau e, (\tau - 1) e \right), \qquad e = y - \hat y

    Several quantiles lie on a last axis of the prediction, and each has its own value. They are
    scored one by one, so that nothing keeps them from crossing; where they must not, predict the
    lowest and the steps between them: ``torch.cat((low, softplus(steps)), -1).cumsum(-1)``. At the
    kink the gradient is 0.

    Args:
        input: predicted quantiles :math:`\hat y`, floating point: the shape of ``target``, and for
            several quantiles one more axis, the last, that holds them.
        target: targets :math:`y`, any shape, floating point.
        quantiles: the level :math:`\tau`, between 0 and 1, or a sequence of levels in ascending
            order.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, or :math:`(*, Q)` for a sequence of Q levels. Target: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import pinball_loss
        >>> pinball_loss(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 3.0]), quantiles=0.9)
        tensor(0.9500)
        >>> predicted, target = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([3.0])
        >>> pinball_loss(predicted, target, quantiles=(0.1, 0.5, 0.9), reduction="none")
        tensor([[0.2000, 0.5000, 0.1000]])

    Source:
        Koenker, Bassett (1978), Regression quantiles.
    """
    levels = _levels(quantiles)
    if not isinstance(levels, tuple):
        pair(input, target)
        values = partial(_pinball, level=levels)
        return reduce_swept(
            values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
        )
    of_items(input, target, f"{len(levels)} quantiles")
    if input.shape[-1] != len(levels):
        raise ValueError(
            f"`input` must hold {len(levels)} quantiles on its last axis, got {list(input.shape)}"
        )
    level = torch.tensor(levels, dtype=input.dtype, device=input.device)
    spread = (input, target.unsqueeze(-1).expand_as(input), level.expand_as(input))
    return reduce_swept(_pinball, spread, weight, reduction, mask=mask, normalizer=normalizer)


def _pinball(input: Tensor, target: Tensor, level: Tensor | float) -> Tensor:
    error = target - input
    return level * error.relu() + (1 - level) * (-error).relu()


def _levels(quantiles: float | Sequence[float]) -> float | tuple[float, ...]:
    """The level, or the levels, checked."""
    if not isinstance(quantiles, list | tuple):
        return number("quantiles", quantiles, above=0, below=1)
    levels = tuple(number("quantiles", level, above=0, below=1) for level in quantiles)
    if not levels or any(low >= high for low, high in pairwise(levels)):
        raise ValueError(f"`quantiles` must ascend from one to the next, got {quantiles!r}")
    return levels


PinballLoss = as_module(pinball_loss)


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("asymmetric least squares", "expectile regression", "implicit q learning"),
    peers={"implicit Q-learning": "the same, with the difference taken the other way round"},
)
def expectile_loss(
    input: Tensor,
    target: Tensor,
    *,
    expectile: float = 0.5,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Expectile loss: squared error that weighs one side more, the smooth kin of a quantile's.

    .. math::
        v = \begin{cases}
            \tau\, e^2 & e \ge 0 \\
            (1 - \tau)\, e^2 & \text{else}
        \end{cases}
        \qquad e = y - \hat y

    With :math:`\tau = 1/2` it is half the squared error. Above it, too low a prediction costs more.

    Args:
        input: predictions :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        expectile: the level :math:`\tau`, between 0 and 1.
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
        >>> from lossproof.losses import expectile_loss
        >>> target = torch.tensor([0.0, 3.0])
        >>> expectile_loss(torch.ones(2), target, expectile=0.9, reduction="none")
        tensor([0.1000, 3.6000])

    Source:
        Newey, Powell (1987), Asymmetric least squares estimation and testing.
    """
    pair(input, target)
    number("expectile", expectile, above=0, below=1)

    def values(input: Tensor, target: Tensor) -> Tensor:
        error = target - input
        square = error.square()
        return torch.where(error >= 0, expectile * square, (1 - expectile) * square)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


ExpectileLoss = as_module(expectile_loss)


@loss(
    inputs="lower float[8,4]; upper float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("winkler score", "prediction interval", "mean interval score"),
    peers={
        "scoringrules": "the same; takes the target first",
        "pinball_loss": "2 / alpha times its sum over the levels alpha/2 and 1 - alpha/2",
    },
)
def interval_score_loss(
    lower: Tensor,
    upper: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Winkler's interval score: a narrow interval is good, a miss costs by its distance.

    .. math::
        v = (u - l) + \frac{2}{\alpha} \max(l - y, 0) + \frac{2}{\alpha} \max(y - u, 0)

    The quantiles of the levels :math:`\alpha/2` and :math:`1 - \alpha/2` minimise its mean. At the
    kinks the penalty has the gradient 0.

    Args:
        lower: lower ends :math:`l`, any shape, floating point. An end above the upper one is no
            error: it costs more than both ends at the target.
        upper: upper ends :math:`u`, the shape of ``lower``.
        target: targets :math:`y`, the shape of ``lower``.
        alpha: the share of targets that may miss the interval, between 0 and 1: 0.1 for an interval
            of 90 %.
        weight: how much each value counts, the shape of ``target`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Lower: :math:`(*)`, upper and target: the same.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import interval_score_loss
        >>> lower, upper = torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2.0])
        >>> target = torch.tensor([1.0, 2.5])
        >>> interval_score_loss(lower, upper, target, alpha=0.1, reduction="none")
        tensor([ 2., 12.])

    Source:
        Winkler (1972), A decision-theoretic approach to interval estimation; Gneiting, Raftery
        (2007), Strictly proper scoring rules, prediction, and estimation.
    """
    pair(lower, target, ("lower", "target"))
    pair(upper, target, ("upper", "target"))
    number("alpha", alpha, above=0, below=1)

    def values(lower: Tensor, upper: Tensor, target: Tensor) -> Tensor:
        return upper - lower + 2 / alpha * ((lower - target).relu() + (target - upper).relu())

    return reduce_swept(
        values, (lower, upper, target), weight, reduction, mask=mask, normalizer=normalizer
    )


IntervalScoreLoss = as_module(interval_score_loss)
