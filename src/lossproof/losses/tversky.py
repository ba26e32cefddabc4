"""Losses that measure overlap, with false positives and false negatives weighed apart."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lossproof.losses._confusion import ratio, reduce_overlap
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import number
from lossproof.write.module import as_module

Tensor = torch.Tensor


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("Tversky index", "F beta"),
    peers={
        "kornia": "`smooth` is 0, absent classes are left out, no default weights",
        "monai, smp": "`alpha = beta = 0.5`, which is the Dice loss",
    },
)
def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    activation: str = "softmax",
    average: str = "sample",
    classes: str = "macro",
    absent: str = "count",
    include_background: bool = True,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Tversky loss: an overlap in which false positives and false negatives weigh differently.

    .. math::
        v = \frac{\alpha F_P + \beta F_N}{T_P + \alpha F_P + \beta F_N + s}, \qquad
        F_P = \sum_i \max(p_i - t_i, 0), \quad F_N = \sum_i \max(t_i - p_i, 0)

    and :math:`T_P = \sum_i t_i - F_N`. ``alpha = beta = 0.5`` gives the Dice loss (with twice its
    ``smooth``), 1 and 1 the Jaccard loss; a larger ``beta`` gives more recall.

    Args:
        input: logits :math:`(N, C, *)`, or probabilities with ``activation="none"``.
        target: labels :math:`(N, *)`, integers from 0 to C - 1; or a mask for each class
            :math:`(N, C, *)`, floating point from 0 to 1.
        alpha: the weight of false positives.
        beta: the weight of false negatives.
        smooth: :math:`s`, in pixels.
        activation: what makes probabilities of ``input``: ``"softmax"`` over the classes,
            ``"sigmoid"`` of each, or ``"none"``.
        average: ``"sample"`` sums over the pixels of each sample, ``"batch"`` over those of all.
        classes: ``"macro"`` gives each class a value of its own, ``"micro"`` sums over the classes
            as well.
        absent: whether classes without a pixel ``"count"``, or not (``"skip"``).
        include_background: whether class 0 takes part.
        weight: of each class, :math:`(C)`, for ``"macro"``.
        ignore_index: the target of pixels that do not count; in masks, of pixels and classes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the values that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`; target: :math:`(N, *)` or :math:`(N, C, *)`.
        - Output: scalar; for ``"none"`` :math:`(N, C)`, without :math:`N` for ``average="batch"``,
          without :math:`C` for ``classes="micro"``.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, a number lies outside of its range,
            or an option is none of those above.

    Example:
        >>> import torch
        >>> from lossproof.losses import tversky_loss
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> tversky_loss(logits, labels)
        tensor(0.1007)

    Source:
        Salehi, Erdogmus and Gholipour (2017), Tversky loss function for image segmentation using 3D
        fully convolutional deep networks, who find 0.3 and 0.7 best.
    """
    return reduce_overlap(
        _of_counts(alpha, beta, smooth),
        input,
        target,
        activation=activation,
        average=average,
        classes=classes,
        absent=absent,
        include_background=include_background,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


TverskyLoss = as_module(tversky_loss)


def _of_counts(
    alpha: float, beta: float, smooth: float
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The Tversky loss of what is predicted in excess, missed, and there."""
    number("alpha", alpha, minimum=0)
    number("beta", beta, minimum=0)
    number("smooth", smooth, minimum=0)

    def value(over: Tensor, under: Tensor, truth: Tensor) -> Tensor:
        wrong = alpha * over + beta * under
        return ratio(wrong, truth - under + wrong + smooth)

    return value


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("Tversky index",),
    peers={
        "smp": "`TverskyLoss(gamma=g)` is our `gamma=1/g`; NaN gradients for perfect predictions",
    },
)
def focal_tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 4 / 3,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    activation: str = "softmax",
    average: str = "sample",
    classes: str = "macro",
    absent: str = "count",
    include_background: bool = True,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Focal Tversky loss: the Tversky loss to a power, which draws attention to poor overlaps.

    .. math::
        v = v_{\text{Tversky}}^{1/\gamma}

    With ``gamma`` above 1 the gradient of small losses is steeper, that of large ones flatter. (In
    the paper ``alpha`` is the weight of false negatives; here it is that of false positives.)

    Args:
        input: logits :math:`(N, C, *)`, or probabilities with ``activation="none"``.
        target: labels :math:`(N, *)`, integers from 0 to C - 1; or a mask for each class
            :math:`(N, C, *)`, floating point from 0 to 1.
        gamma: the root that is taken, above 0.
        alpha: the weight of false positives.
        beta: the weight of false negatives.
        smooth: :math:`s`, in pixels.
        activation: what makes probabilities of ``input``: ``"softmax"`` over the classes,
            ``"sigmoid"`` of each, or ``"none"``.
        average: ``"sample"`` sums over the pixels of each sample, ``"batch"`` over those of all.
        classes: ``"macro"`` gives each class a value of its own, ``"micro"`` sums over the classes
            as well.
        absent: whether classes without a pixel ``"count"``, or not (``"skip"``).
        include_background: whether class 0 takes part.
        weight: of each class, :math:`(C)`, for ``"macro"``.
        ignore_index: the target of pixels that do not count; in masks, of pixels and classes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the values that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`; target: :math:`(N, *)` or :math:`(N, C, *)`.
        - Output: scalar; for ``"none"`` :math:`(N, C)`, without :math:`N` for ``average="batch"``,
          without :math:`C` for ``classes="micro"``.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, a number lies outside of its range,
            or an option is none of those above.

    Example:
        >>> import torch
        >>> from lossproof.losses import focal_tversky_loss
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> focal_tversky_loss(logits, labels)
        tensor(0.1787)

    Source:
        Abraham and Khan (2019), A novel focal Tversky loss function with improved attention U-Net
        for lesion segmentation.
    """
    number("gamma", gamma, above=0)
    of_counts = _of_counts(alpha, beta, smooth)

    def value(over: Tensor, under: Tensor, truth: Tensor) -> Tensor:
        tversky = of_counts(over, under, truth)
        perfect = tversky == 0  # where a root has an infinite slope
        return torch.where(perfect, tversky, torch.where(perfect, 1.0, tversky) ** (1 / gamma))

    return reduce_overlap(
        value,
        input,
        target,
        activation=activation,
        average=average,
        classes=classes,
        absent=absent,
        include_background=include_background,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


FocalTverskyLoss = as_module(focal_tversky_loss)
