"""Losses for classes that have an order, such as grades and stages."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lossproof.losses._class_targets import reduce_labels
from lossproof.losses._logits import one_hot
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import (
    axes,
    class_indices,
    finite,
    integer,
    same_device,
    same_shape,
    tensor,
    within,
)
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target int[8]<5",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("consistent rank logits", "ordinal regression", "extended binary classification"),
    peers={
        "coral-pytorch": "`coral_loss`: the same function; the labels as extended binary vectors, "
        "`importance` as `importance_weights`",
    },
)
def coral_loss(
    input: Tensor,
    target: Tensor,
    *,
    importance: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""CORAL: for each threshold between two classes, whether the class lies above it.

    .. math::
        v = -\sum_{k=0}^{K-2} \lambda_k \bigl(
            [y > k] \log \sigma(x_k) + [y \leq k] \log (1 - \sigma(x_k)) \bigr)

    The predicted class is the number of thresholds with :math:`x_k > 0`. It is consistent where the
    logits of an item differ by their biases alone, as the paper's last layer has them.

    Args:
        input: logits :math:`x` of lying above each threshold, (K - 1) or (N, K - 1), floating
            point.
        target: classes :math:`y` from 0 to K - 1, () or (N,), integers.
        importance: :math:`\lambda`, how much each threshold counts, (K - 1,). A mean does not
            divide it out.
        weight: how much each class counts, (K,). A mean divides it out.
        ignore_index: the class of items that do not count; their logits may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the classes that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(K - 1)` or :math:`(N, K - 1)`, target: :math:`()` or :math:`(N)`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: the input is not floating point, or the target holds no integers.
        ValueError: the shapes do not fit, a class is none, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import coral_loss
        >>> logits = torch.tensor([
        ...     [2.1, 1.8, -2.1, -1.8], [1.9, -1.0, -1.5, -1.3], [1.9, 1.8, 1.7, 1.6]
        ... ])
        >>> coral_loss(logits, torch.tensor([2, 1, 4]))
        tensor(0.6920)

    Source:
        Cao, Mirjalili, Raschka (2020), Rank consistent ordinal regression for neural networks with
        application to age estimation.
    """
    input, label, counts = _above_thresholds(input, target, ignore_index)
    threshold = torch.arange(input.shape[-1], device=input.device)
    costs = -F.logsigmoid(torch.where(label.unsqueeze(-1) > threshold, input, -input))
    if importance is not None:
        costs = costs * _for_each("importance", importance, input.shape[-1], input)
    factor = _class_factor(weight, label, input.shape[-1] + 1, input)
    return reduce(costs.sum(-1), factor, reduction, mask=counts, normalizer=normalizer)


@loss(
    inputs="input float[8,4]; target int[8]<5",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("conditional ordinal regression", "rank consistent"),
    peers={
        "coral-pytorch": "`corn_loss`: the same function; takes classes out of range, and divides "
        "by zero where the batch is empty",
    },
)
def corn_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""CORN: for each threshold, whether the class lies above it, asked of those above the last.

    .. math::
        v_k = -[y > k] \log \sigma(x_k) - [y = k] \log (1 - \sigma(x_k))
        \quad \text{for } k \leq y

    The probability to lie above threshold :math:`k` is the product of :math:`\sigma(x_j)` for all
    :math:`j \leq k`, which never rises with :math:`k`.

    Args:
        input: logits :math:`x` of lying above each threshold, given that the item lies above the
            one before, (K - 1) or (N, K - 1), floating point.
        target: classes :math:`y` from 0 to K - 1, () or (N,), integers.
        weight: how much each class counts, (K,). A mean divides it out.
        ignore_index: the class of items that do not count; their logits may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the number of
            questions that are asked, :math:`\min(y + 1, K - 1)` of an item, each counted with the
            weight of its item.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(K - 1)` or :math:`(N, K - 1)`, target: :math:`()` or :math:`(N)`.
        - Output: scalar; for ``"none"`` the shape of the input, 0 for what is not asked.

    Raises:
        TypeError: the input is not floating point, or the target holds no integers.
        ValueError: the shapes do not fit, a class is none, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import corn_loss
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [-1.0, 3.0, 3.0]])
        >>> corn_loss(logits, torch.tensor([1, 0]))
        tensor(0.3778)

    Source:
        Shi, Cao, Raschka (2023), Deep neural networks for rank-consistent ordinal regression based
        on conditional probabilities.
    """
    input, label, counts = _above_thresholds(input, target, ignore_index)
    threshold, place = torch.arange(input.shape[-1], device=input.device), label.unsqueeze(-1)
    asked = counts.unsqueeze(-1) & (place >= threshold)
    input = torch.where(asked, input, 0.0)
    values = -F.logsigmoid(torch.where(place > threshold, input, -input))
    factor = _class_factor(weight, label, input.shape[-1] + 1, input)
    if factor is not None:
        factor = factor.unsqueeze(-1)
    return reduce(values, factor, reduction, mask=asked, normalizer=normalizer)


@loss(
    inputs="input float[8]; target int[8]<4",
    options={"cutpoints": torch.tensor([-1.0, 0.0, 2.0])},
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("ordered logit", "proportional odds", "ordinal regression", "ordinal logistic"),
    peers={
        "spacecutter": "`CumulativeLinkLoss`: takes probabilities, clamped at 1e-15, where the "
        "gradient ends",
    },
)
def cumulative_link_loss(
    input: Tensor,
    target: Tensor,
    *,
    cutpoints: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cumulative link (proportional odds): one score, cut into classes at ordered points.

    .. math::
        v = -\log \bigl( \sigma(c_y - x) - \sigma(c_{y-1} - x) \bigr), \qquad
        c_{-1} = -\infty, \; c_{K-1} = \infty

    The cutpoints have a gradient, too. To learn them, keep them in order by their steps:
    ``torch.cumsum(torch.cat([first, steps.exp()]), 0)``.

    Args:
        input: scores :math:`x`, any shape, floating point.
        target: classes :math:`y` from 0 to K - 1, integers, the shape of ``input``.
        cutpoints: :math:`c`, where each class ends but the last, (K - 1,), rising.
        weight: how much each class counts, (K,). A mean divides it out.
        ignore_index: the class of items that do not count; their scores may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the classes that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: the input is not floating point, or the target holds no integers.
        ValueError: the shapes do not fit, a class is none, the cutpoints do not rise, or an option
            is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import cumulative_link_loss
        >>> scores, target = torch.tensor([-2.0, 0.5, 1e3]), torch.tensor([0, 1, 0])
        >>> cutpoints = torch.tensor([-1.0, 1.0])
        >>> cumulative_link_loss(scores, target, cutpoints=cutpoints, reduction="none")
        tensor([3.1326e-01, 8.2090e-01, 1.0010e+03])

    Source:
        McCullagh (1980), Regression models for ordinal data.
    """
    same_shape(tensor("input", input), tensor("target", target, "integer"))
    cutpoints = axes("cutpoints", tensor("cutpoints", cutpoints), 1, layout="(K - 1,)")
    same_device(input, cutpoints, ("input", "cutpoints"))
    last = cutpoints.shape[0]
    if last == 0:
        raise ValueError("`cutpoints` must have at least one number, got shape [0]")
    steps = (cutpoints[1:] - cutpoints[:-1]).to(input.dtype)
    finite("cutpoints", cutpoints)
    within("cutpoints[1:] - cutpoints[:-1]", steps, above=0)
    label, counts = _labels(target, last + 1, ignore_index)
    input, cutpoints = torch.where(counts, input, 0.0), cutpoints.to(input.dtype)
    # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), and none of them cancels.
    below_end = F.logsigmoid(cutpoints[label.clamp(max=last - 1)] - input)
    above_start = F.logsigmoid(input - cutpoints[(label - 1).clamp(min=0)])
    log_likelihood = F.pad(_log_less_than_one(steps), (1, 1))[label]
    log_likelihood = log_likelihood + torch.where(label < last, below_end, 0.0)
    log_likelihood = log_likelihood + torch.where(label > 0, above_start, 0.0)
    factor = _class_factor(weight, label, last + 1, input)
    return reduce(-log_likelihood, factor, reduction, mask=counts, normalizer=normalizer)


def _log_less_than_one(step: Tensor) -> Tensor:
    """log(1 - exp(-d)) for d > 0, exact for small and for large d."""
    small = step < math.log(2)
    near = torch.log(-torch.expm1(-torch.where(small, step, 1.0)))
    far = torch.log1p(-torch.exp(-torch.where(small, 1.0, step)))
    return torch.where(small, near, far)


@loss(
    inputs="input float[8,5]; target int[8]<5",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="EMD2Loss",
    also=("earth mover's distance", "ranked probability score", "nima", "wasserstein", "rps"),
    peers={
        "NIMA (many copies)": "takes probabilities; the root of the mean over the classes of the "
        "same squares",
        "scores of forecasts": "the same sum under the name of ranked probability score",
    },
)
def emd2_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Squared earth mover's distance: how far probability must be moved along ordered classes.

    .. math::
        v = \sum_{k=0}^{K-2} \Bigl( \sum_{j \leq k} p_j - \sum_{j \leq k} t_j \Bigr)^2, \qquad
        p = \operatorname{softmax}(x)

    As with any square of probabilities, the gradient vanishes where the softmax is saturated, be it
    at the wrong class.

    Args:
        input: logits :math:`x`, (C) or (N, C, \*), floating point.
        target: classes from 0 to C - 1, () or (N, \*), integers; or probabilities :math:`t`, the
            shape of ``input``.
        weight: how much each class counts, (C,), where the target is classes. A mean divides it
            out.
        ignore_index: the class of items that do not count; their logits may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the classes that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(C)` or :math:`(N, C, *)`, target: :math:`()` or :math:`(N, *)`, or as the
          input.
        - Output: scalar; for ``"none"`` :math:`()` or :math:`(N, *)`.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the shapes do not fit, a class is none, a probability lies outside 0 and 1,
            there are weights beside probabilities, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import emd2_loss
        >>> logits = torch.tensor([[0.0, 0.0, 0.0]] * 2)
        >>> emd2_loss(logits, torch.tensor([0, 1]), reduction="none")
        tensor([0.5556, 0.2222])

    Source:
        Hou, Yu, Samaras (2016), Squared earth mover's distance-based loss for training deep neural
        networks; Epstein (1969), A scoring system for probability forecasts of ranked categories.
    """
    if not tensor("target", target, "number").is_floating_point():
        return reduce_labels(
            _distance_to_class,
            input,
            target,
            weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
        )
    if weight is not None:
        raise ValueError(
            "`weight` is of classes: it must be None where the target is probabilities"
        )
    integer("ignore_index", ignore_index)
    same_shape(axes("input", tensor("input", input), -1, layout="(C) or (N, C, *)"), target)
    within("target", target, 0, 1)
    if input.ndim == 1:
        values = _distance(input.unsqueeze(0), target.unsqueeze(0)).squeeze(0)
    else:
        values = _distance(input, target)
    return reduce(values, None, reduction, normalizer=normalizer)


def _distance_to_class(logits: Tensor, label: Tensor) -> Tensor:
    return _distance(logits, one_hot(label, logits).to(logits.dtype))


def _distance(logits: Tensor, wanted: Tensor) -> Tensor:
    """The squared distance of the softmax from the probabilities that are wanted."""
    p, below_wanted = logits.movedim(1, -1).softmax(-1), wanted.movedim(1, -1).cumsum(-1)[..., :-1]
    below, above = p.cumsum(-1)[..., :-1], p.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    # Of the probability below a boundary and of that above it, the smaller is compared: it is a sum
    # of small numbers, and no rounded 1 less such a sum.
    moved = torch.where(above < below, (1 - below_wanted) - above, below - below_wanted)
    return moved.square().sum(-1).to(logits.dtype)


def _above_thresholds(
    input: Tensor, target: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits, 0 where an item does not count, its class, 0 there, and which items count."""
    input = axes("input", tensor("input", input), 1, 2, layout="(K - 1) or (N, K - 1)")
    target = tensor("target", target, "integer")
    if target.shape != input.shape[:-1]:
        raise ValueError(
            "`target` must have one class for each item of `input`, the shape "
            f"{list(input.shape[:-1])}, got {list(target.shape)}"
        )
    same_device(input, target, ("input", "target"))
    label, counts = _labels(target, input.shape[-1] + 1, ignore_index)
    return torch.where(counts.unsqueeze(-1), input, 0.0), label, counts


def _labels(target: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The class of each item, 0 where it does not count, and which items count."""
    integer("ignore_index", ignore_index)
    target = class_indices("target", target, classes, ignore_index=ignore_index)
    counts = target != ignore_index
    return torch.where(counts, target, 0), counts


def _class_factor(
    weight: Tensor | None, label: Tensor, classes: int, input: Tensor
) -> Tensor | None:
    return None if weight is None else _for_each("weight", weight, classes, input)[label]


def _for_each(name: str, value: Tensor, count: int, input: Tensor) -> Tensor:
    """One number, not negative, for each class or threshold."""
    value = tensor(name, value)
    if value.shape != (count,):
        raise ValueError(f"`{name}` must have the shape [{count}], got {list(value.shape)}")
    same_device(input, value, ("input", name))
    within(name, value, 0)
    return value.to(input.dtype)


CoralLoss = as_module(coral_loss)
CornLoss = as_module(corn_loss)
CumulativeLinkLoss = as_module(cumulative_link_loss)
EMD2Loss = as_module(emd2_loss, name="EMD2Loss")
