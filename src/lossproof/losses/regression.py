"""Losses between a prediction and a target that are numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import number, pair
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    module="MSELoss",
    also=("l2", "squared error", "mean squared error"),
    peers={
        "torch": "broadcasts two different shapes with a warning; the mean of nothing is NaN",
        "keras": "the mean over the last axis; shapes are broadcast without a word",
        "optax": "`l2_loss` is half of it, `squared_error` the same",
    },
)
def mse_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Squared error: the mean is what minimises it, and a large error counts most.

    .. math::
        v = (\hat y - y)^2

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
        >>> from lossproof.losses import mse_loss
        >>> mse_loss(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 1.0, 1.0]))
        tensor(5.6667)

    Source:
        Gauss (1809), Theoria motus corporum coelestium.
    """
    pair(input, target)

    def values(input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction="none")

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


MSELoss = as_module(mse_loss, name="MSELoss")


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("mae", "absolute error", "mean absolute error"),
    peers={"torch": "broadcasts two different shapes with a warning; the mean of nothing is NaN"},
)
def l1_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Absolute error: the median is what minimises it, and outliers pull no harder than the rest.

    .. math::
        v = |\hat y - y|

    At the kink its gradient is 0.

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
        >>> from lossproof.losses import l1_loss
        >>> l1_loss(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 1.0, 1.0]))
        tensor(1.6667)

    Source:
        Laplace (1774), Mémoire sur la probabilité des causes par les événements.
    """
    pair(input, target)

    def values(input: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(input, target, reduction="none")

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


L1Loss = as_module(l1_loss)


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    peers={
        "torch, optax, keras": "the same function; other shapes are broadcast",
        "smooth_l1_loss": "this, divided by the threshold",
    },
)
def huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Huber's loss: squared up to a threshold, absolute beyond it.

    .. math::
        v = \begin{cases}
            e^2/2 & |e| \le \delta \\
            \delta\,(|e| - \delta/2) & \text{else}
        \end{cases}
        \qquad e = \hat y - y

    Its gradient is the error, clipped to :math:`\pm\delta`.

    Args:
        input: predictions :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        delta: the threshold :math:`\delta`, above 0, in the unit of the target.
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
        >>> from lossproof.losses import huber_loss
        >>> huber_loss(torch.tensor([0.0, 0.5, 3.0]), torch.zeros(3), reduction="none")
        tensor([0.0000, 0.1250, 2.5000])

    Source:
        Huber (1964), Robust estimation of a location parameter.
    """
    pair(input, target)
    number("delta", delta, above=0)

    def values(input: Tensor, target: Tensor) -> Tensor:
        # Two dtypes have a value there, but no gradient.
        dtype = torch.promote_types(input.dtype, target.dtype)
        return F.huber_loss(input.to(dtype), target.to(dtype), reduction="none", delta=delta)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


HuberLoss = as_module(huber_loss)


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="SmoothL1Loss",
    peers={"torch": "the same function; other shapes are broadcast with a warning"},
)
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Smooth L1: the absolute error, rounded off near 0.

    .. math::
        v = \begin{cases}
            e^2 / (2\beta) & |e| \le \beta \\
            |e| - \beta/2 & \text{else}
        \end{cases}
        \qquad e = \hat y - y

    Huber's loss divided by its threshold: far away its slope is 1 whatever the threshold.

    Args:
        input: predictions :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        beta: the threshold :math:`\beta`, at least 0, in the unit of the target. 0 gives the
            absolute error.
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
        >>> from lossproof.losses import smooth_l1_loss
        >>> error = torch.tensor([0.0, 0.2, 3.0])
        >>> smooth_l1_loss(error, torch.zeros(3), beta=0.5, reduction="none")
        tensor([0.0000, 0.0400, 2.7500])

    Source:
        Girshick (2015), Fast R-CNN.
    """
    pair(input, target)
    number("beta", beta, minimum=0)

    def values(input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(input, target, reduction="none", beta=beta)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


SmoothL1Loss = as_module(smooth_l1_loss)


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("logcosh",),
    peers={
        "keras, optax, toolbelt": "the same function, which near 0 loses all digits to rounding",
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
        error = input - target
        near = error.clamp(-20, 20)  # beyond, the slope is 1 to the last digit
        # cosh(e) = 1 + 2 sinh(e/2)^2 keeps the digits of a small error, which else cancel.
        return torch.log1p(2 * torch.sinh(0.5 * near).square()) + (error - near).abs()

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


LogCoshLoss = as_module(log_cosh_loss)
