"""Lovász losses: the convex extension of the Jaccard loss of masks."""

from __future__ import annotations

import numpy as np
import torch

from lossproof.losses._confusion import checked, class_weight, probabilities
from lossproof.losses._logits import one_hot
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import (
    among,
    axes,
    choice,
    flag,
    integer,
    same_shape,
    tensor,
    visible,
)
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input float[4,3,6]; target int[4,6]<3",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=True,
    also=("Lovasz", "IoU", "Jaccard"),
    peers={
        "kornia": '`per_image=True, classes="all"`; a weight is not divided out',
        "smp, toolbelt": "the same for labels; toolbelt takes probabilities",
    },
)
def lovasz_softmax_loss(
    input: Tensor,
    target: Tensor,
    *,
    per_image: bool = False,
    classes: str = "present",
    activation: str = "softmax",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Lovász-softmax loss: an extension of 1 minus the IoU, from masks to probabilities.

    .. math::
        v_c = \sum_i e_{(i)} \big(\Delta_i - \Delta_{i-1}\big), \qquad
        e_i = |t_{ci} - p_{ci}|, \quad e_{(1)} \ge e_{(2)} \ge \dots

    :math:`\Delta_i` is the Jaccard loss of class c where the :math:`i` pixels with the largest
    errors are wrong and all others right. An absent class, where it counts, costs its largest
    probability.

    Args:
        input: logits :math:`(N, C, *)`, or probabilities with ``activation="none"``.
        target: labels :math:`(N, *)`, integers from 0 to C - 1.
        per_image: whether each sample has a value of its own, or the batch has one.
        classes: ``"present"`` leaves out classes without a pixel, ``"all"`` does not.
        activation: what makes probabilities of ``input``: ``"softmax"`` over the classes,
            ``"sigmoid"`` of each, or ``"none"``.
        weight: of each class, :math:`(C)`.
        ignore_index: the label of pixels that do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            of the values that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`; target: :math:`(N, *)`.
        - Output: scalar; for ``"none"`` :math:`(C)`, or :math:`(N, C)` for ``per_image``.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes do not fit, a label is no class, a probability lies outside of its
            range, or an option is none of those above.

    Example:
        >>> import torch
        >>> from lossproof.losses import lovasz_softmax_loss
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> lovasz_softmax_loss(logits, labels)
        tensor(0.1941)

    Source:
        Berman, Rannen Triki and Blaschko (2018), The Lovász-softmax loss.
    """
    flag("per_image", per_image)
    choice("classes", classes, ("present", "all"))
    input, target = checked(input, tensor("target", target, "integer"), activation, ignore_index)
    if weight is not None:
        weight = class_weight(weight, input)
        weight = weight.unsqueeze(0) if per_image else weight
    keep = (target != ignore_index).unsqueeze(1)
    is_label = keep & one_hot(target, input)
    errors = _errors(torch.where(keep, input, 0.0), is_label, activation)
    errors = torch.where(keep, errors, 0.0)
    rows = (_class_rows(part, per_image) for part in (errors, is_label, keep))
    errors, is_label, keep = rows
    counts = (is_label if classes == "present" else keep.expand_as(is_label)).any(-1)
    values = _lovasz_extension(errors, is_label, keep)
    return reduce(values, weight, reduction, mask=counts, normalizer=normalizer)


def _errors(input: Tensor, is_label: Tensor, activation: str) -> Tensor:
    """The probability of each class that is not the label, and all but that of the label."""
    if activation == "softmax":
        p = torch.softmax(input, 1)
        return torch.where(is_label, torch.where(is_label, 0.0, p).sum(1, keepdim=True), p)
    p, others = probabilities(input, activation)
    return torch.where(is_label, others, p)


def _class_rows(part: Tensor, per_image: bool) -> Tensor:
    r"""From (N, C, \\*) to pixels on the last axis: (N, C, S), or (C, N S)."""
    if not per_image:
        return part.transpose(0, 1).flatten(1)
    return part.flatten(2) if part.ndim > 2 else part.unsqueeze(2)


LovaszSoftmaxLoss = as_module(lovasz_softmax_loss)


@loss(
    inputs="input float[4,6]; target int[4,6]<2",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("Lovasz", "binary IoU", "Jaccard"),
    peers={
        "kornia": "nothing is ignored",
        "smp, toolbelt": '`per_image` as here for the mode "binary"',
    },
)
def lovasz_hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    per_image: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Lovász hinge loss: an extension of 1 minus the IoU of a binary mask, from masks to logits.

    .. math::
        v = \sum_i \max(e_{(i)}, 0) \big(\Delta_i - \Delta_{i-1}\big), \qquad
        e_i = 1 - (2 t_i - 1) x_i, \quad e_{(1)} \ge e_{(2)} \ge \dots

    :math:`\Delta_i` is the Jaccard loss where the :math:`i` pixels with the largest errors are
    wrong and all others right. It is convex in the logits and 0 where each is right by a margin
    of 1.

    Args:
        input: logits :math:`(N, *)`, positive for the mask.
        target: the mask, 0 or 1 in the shape of ``input``, numbers or bool.
        per_image: whether each sample has a value of its own, or the batch has one.
        ignore_index: the target of pixels that do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the number of samples
            in which anything counts.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, *)`; target: the same.
        - Output: scalar; for ``"none"`` :math:`(N)` where ``per_image``.

    Raises:
        TypeError: a tensor is not of the type above.
        ValueError: the shapes differ, a target is not 0 or 1, or an option is none of those above.

    Example:
        >>> import torch
        >>> from lossproof.losses import lovasz_hinge_loss
        >>> logits = torch.tensor([[2.0, -1.0, 0.5, -3.0]])
        >>> mask = torch.tensor([[1, 1, 0, 0]])
        >>> lovasz_hinge_loss(logits, mask)
        tensor(1.2500)

    Source:
        Yu and Blaschko (2015), Learning submodular losses with the Lovász hinge; Berman, Rannen
        Triki and Blaschko (2018), The Lovász-softmax loss.
    """
    flag("per_image", per_image)
    integer("ignore_index", ignore_index)
    axes("input", tensor("input", input), -1, layout="(N, *)")
    same_shape(input, tensor("target", target, "any"))
    keep = target != ignore_index
    among("target", target, (0, 1), where=keep)
    positive = keep & (target == 1)
    safe = torch.where(keep, input, 0.0)
    errors = torch.relu(1 - torch.where(positive, safe, -safe))
    parts = (torch.where(keep, errors, 0.0), positive, keep)
    errors, positive, keep = (_image_rows(part, per_image) for part in parts)
    values = _lovasz_extension(errors, positive, keep)
    return reduce(values, None, reduction, mask=keep.any(-1), normalizer=normalizer)


def _image_rows(part: Tensor, per_image: bool) -> Tensor:
    r"""From (N, \\*) to pixels on the last axis: (N, S), or (N S)."""
    if not per_image:
        return part.flatten()
    return part.flatten(1) if part.ndim > 1 else part.unsqueeze(1)


LovaszHingeLoss = as_module(lovasz_hinge_loss)


def _lovasz_extension(errors: Tensor, truth: Tensor, keep: Tensor) -> Tensor:
    """The extension of the Jaccard loss along the last axis; pixels that do not count come last.

    Between two changes of the order it is linear in the errors, so that its slopes are constants.
    """
    order = _descending(torch.where(keep, errors.detach(), -1.0))
    slopes = torch.zeros_like(errors).scatter(-1, order, _slopes(truth.gather(-1, order), errors))
    return (errors * slopes).sum(-1)


def _slopes(truth: Tensor, errors: Tensor) -> Tensor:
    """By how much each wrong pixel raises the Jaccard loss of those before it.

    The difference of two neighbouring losses, written out: in float32 nothing would be left of it
    in a large image.
    """
    missed = truth.to(errors.dtype).cumsum(-1)
    rank = torch.arange(1, truth.shape[-1] + 1, dtype=errors.dtype, device=errors.device)
    size = missed[..., -1:]
    union = size + rank - missed
    excess = (size - missed) / (union * (union - 1))
    excess = torch.where(union > 1, excess, 1.0)  # the first wrong pixel of an absent class
    return torch.where(truth, 1 / union, excess)


def _descending(keys: Tensor) -> Tensor:
    """The order of each row, from the largest key to the smallest."""
    if type(keys) is not Tensor or not visible(keys):
        return torch.argsort(keys, -1, descending=True)
    return torch.from_numpy(np.argsort(-keys.numpy(), -1))  # vectorised, in a fifth of the time
