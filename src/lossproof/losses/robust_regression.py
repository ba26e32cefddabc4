"""Regression losses on which an outlier has little influence."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

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
    also=("pseudo huber", "l1-l2", "smooth l1", "super resolution"),
    peers={
        "kornia": "`sqrt(e^2 + 1) - 1`: `eps=1`, moved down to 0 at the target",
        "image restoration": "`eps` is 1e-3 or 1e-6, or stands for its own square",
    },
)
def charbonnier_loss(
    input: Tensor,
    target: Tensor,
    *,
    eps: float = 1e-3,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Charbonnier's loss: the absolute error, rounded off near 0 and smooth everywhere.

    .. math::
        v = \sqrt{(\hat y - y)^2 + \varepsilon^2}

    Its least value is :math:`\varepsilon`, not 0.

    Args:
        input: predictions :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        eps: where the quadratic part ends, :math:`\varepsilon`, above 0, in the unit of the target.
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
        >>> from lossproof.losses import charbonnier_loss
        >>> charbonnier_loss(torch.tensor([0.0, 3.0]), torch.zeros(2), eps=4.0, reduction="none")
        tensor([4., 5.])

    Source:
        Charbonnier, Blanc-Féraud, Aubert, Barlaud (1994), Two deterministic half-quadratic
        regularization algorithms for computed imaging; in this form Lai, Huang, Ahuja, Yang
        (2017), Deep Laplacian pyramid networks for fast and accurate super-resolution.
    """
    pair(input, target)
    number("eps", eps, above=0)

    def values(input: Tensor, target: Tensor) -> Tensor:
        error = input - target
        return torch.hypot(error, torch.full_like(error, eps))

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


CharbonnierLoss = as_module(charbonnier_loss)


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("barron", "cauchy", "lorentzian", "geman mcclure", "welsch", "leclerc", "pseudo huber"),
    peers={
        "kornia": "`charbonnier_loss`, `cauchy_loss`, `geman_mcclure_loss` and `welsch_loss` are "
        "`alpha` of 1, 0, -2 and `-math.inf`",
        "robust_loss_pytorch": "adds a floor to `alpha` and to its distance from 2",
    },
)
def general_robust_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    scale: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Barron's robust loss: one number leads from the squared error to one that ignores outliers.

    .. math::
        v = \frac{|\alpha - 2|}{\alpha}
            \left( \left( \frac{z}{|\alpha - 2|} + 1 \right)^{\alpha/2} - 1 \right),
        \qquad z = \left( \frac{\hat y - y}{c} \right)^2

    and its limits :math:`z/2` at :math:`\alpha = 2`, :math:`\log(1 + z/2)` at 0,
    :math:`1 - \exp(-z/2)` at :math:`-\infty`. With :math:`\alpha` of 2, 1, 0, -2 and
    :math:`-\infty` this is the squared error, Charbonnier's, Cauchy's, Geman and McClure's and
    Welsch's loss. It is convex from :math:`\alpha = 1` on, and its gradient is bounded up to there.

    Args:
        input: predictions :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        alpha: the shape :math:`\alpha`, from -1e6 to 1e6 or ``-math.inf``. The smaller it is, the
            less an outlier counts.
        scale: where the quadratic part ends, :math:`c`, above 0, in the unit of the target.
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
        >>> from lossproof.losses import general_robust_loss
        >>> error = torch.tensor([0.0, 1.0, 10.0])
        >>> general_robust_loss(error, torch.zeros(3), alpha=1.0, reduction="none")
        tensor([0.0000, 0.4142, 9.0499])
        >>> general_robust_loss(error, torch.zeros(3), alpha=-2.0, reduction="none")
        tensor([0.0000, 0.4000, 1.9231])

    Source:
        Barron (2019), A general and adaptive robust loss function.
    """
    pair(input, target)
    _check_shape(alpha)
    number("scale", scale, above=0)
    rho = partial(_barron, alpha=alpha)

    def values(input: Tensor, target: Tensor) -> Tensor:
        return rho(((input - target) / scale).square())

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


def _check_shape(alpha: Any) -> None:
    if not (isinstance(alpha, float) and alpha == -math.inf):
        number("alpha", alpha, minimum=-1e6, maximum=1e6)


def _barron(z: Tensor, alpha: float) -> Tensor:
    """Barron's loss of a squared error; near each limit it keeps the digits that differ from it."""
    if alpha == 2:
        return 0.5 * z
    if abs(alpha) < 1e-15:
        return torch.log1p(0.5 * z)
    if alpha == -math.inf:
        return -_expm1(-0.5 * z)
    distance = abs(alpha - 2)
    return distance / alpha * _expm1(0.5 * alpha * torch.log1p(z / distance))


def _expm1(h: Tensor) -> Tensor:
    """``exp(h) - 1``. The derivative of ``torch.expm1`` is its value + 1, rounded far below 0."""
    near = h > -1
    above, below = torch.where(near, h, 0.0), torch.where(near, 0.0, h)
    return torch.where(near, torch.expm1(above), torch.exp(below) - 1)


GeneralRobustLoss = as_module(general_robust_loss)


@loss(
    inputs="input float[8,4]; target float[8,4]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("landmarks", "keypoints"),
    peers={"toolbelt": "the same function with `width=5` and `curvature=0.5`"},
)
def wing_loss(
    input: Tensor,
    target: Tensor,
    *,
    width: float = 10.0,
    curvature: float = 2.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Wing loss: small errors of landmarks get more weight than the absolute error gives them.

    .. math::
        v = \begin{cases}
            w \log(1 + |e| / \varepsilon) & |e| < w \\
            |e| - w + w \log(1 + w / \varepsilon) & \text{else}
        \end{cases}
        \qquad e = \hat y - y

    At the kink its gradient is 0. Beside it the slope is :math:`w/\varepsilon`, the largest.

    Args:
        input: predicted coordinates :math:`\hat y`, any shape, floating point; the paper's are in
            pixels.
        target: coordinates :math:`y`, the shape of ``input``.
        width: where the logarithm ends, :math:`w`, above 0, in the unit of the target.
        curvature: how bent it is, the paper's :math:`\varepsilon`, above 0: the less, the steeper
            near 0.
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
        >>> from lossproof.losses import wing_loss
        >>> wing_loss(torch.tensor([0.0, 1.0, 20.0]), torch.zeros(3), reduction="none")
        tensor([ 0.0000,  4.0547, 27.9176])

    Source:
        Feng, Kittler, Awais, Huber, Wu (2018), Wing loss for robust facial landmark localisation
        with convolutional neural networks.
    """
    pair(input, target)
    number("width", width, above=0)
    number("curvature", curvature, above=0)
    offset = width * math.log1p(width / curvature) - width

    def values(input: Tensor, target: Tensor) -> Tensor:
        size = (input - target).abs()
        return torch.where(size < width, width * torch.log1p(size / curvature), size + offset)

    return reduce_swept(
        values, (input, target), weight, reduction, mask=mask, normalizer=normalizer
    )


WingLoss = as_module(wing_loss)
