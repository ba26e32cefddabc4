"""Losses by which a student learns from the predictions of a teacher."""

from __future__ import annotations

import torch

from lossproof.losses.catalogue import loss
from lossproof.losses.divergences import (
    categorical_jsd,
    categorical_kl,
    jsd_and_gradient,
    kl_and_gradient,
    log_softmax,
    reduce_distributions,
)
from lossproof.write.arguments import axes, number, pair, tensor
from lossproof.write.module import as_module

Tensor = torch.Tensor


@loss(
    inputs="input float[8,5]; target float[8,5]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="KDKLLoss",
    also=("knowledge distillation", "Hinton", "teacher", "student"),
    peers={
        "torch": "`kl_div(log_softmax(s / T), softmax(t / T), reduction='batchmean') * T**2`; its "
        "'mean' divides by the classes too",
    },
)
def kd_kl_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Knowledge distillation: the KL divergence of the student from the teacher, both softened.

    .. math::
        v = T^2 \, \mathrm{KL}\!\left( \operatorname{softmax}(t / T) \,\|\,
        \operatorname{softmax}(s / T) \right)

    The factor :math:`T^2` keeps the size of the gradient as the temperature rises; for a high one
    the loss becomes half the mean squared difference of the centred logits. Hinton and others use
    temperatures from 1 to 20.

    Args:
        input: logits :math:`s` of the student, floating point.
        target: logits :math:`t` of the teacher, the shape of ``input``.
        temperature: what both are divided by, above 0.
        weight: how much each item counts, the shape of the values.
        mask: which items count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of items that count, not of classes.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input, target: :math:`(N, C, *)`, or :math:`(C)` for a single item. The tokens of a
          language model are items: ``logits.flatten(0, 1)``.
        - Output: scalar; for ``"none"`` :math:`(N, *)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import kd_kl_loss
        >>> student, teacher = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
        >>> kd_kl_loss(student, teacher, temperature=2.0, reduction="none")
        tensor([0.0000, 0.4931])

    Source:
        Hinton, Vinyals, Dean (2015), Distilling the knowledge in a neural network.
    """
    pair(input, target)
    number("temperature", temperature, above=0)

    def values(student: Tensor, teacher: Tensor) -> Tensor:
        log_p = (teacher / temperature).log_softmax(1)
        log_q = (student / temperature).log_softmax(1)
        return temperature**2 * categorical_kl(log_p, log_q)

    def gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        log_p = (teacher / temperature).log_softmax(1)
        log_q = (student / temperature).log_softmax(1)
        value, slope = kl_and_gradient(log_p, log_q)
        return temperature**2 * value, temperature * slope

    return reduce_distributions(
        values,
        (input, target),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=gradient,
    )


KDKLLoss = as_module(kd_kl_loss, name="KDKLLoss")


@loss(
    inputs="input float[8,5]; target float[8,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="GKDJSDLoss",
    also=("generalised Jensen-Shannon", "on-policy distillation", "reverse KL", "teacher"),
    peers={
        "trl": "the same; 'batchmean' divides by the first axis alone",
        "liger-kernel": "the same, in a fused head",
    },
)
def gkd_jsd_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Generalised knowledge distillation: a divergence between forward and reverse KL.

    .. math::
        v = \beta \, \mathrm{KL}(p \,\|\, m) + (1 - \beta) \, \mathrm{KL}(q \,\|\, m), \qquad
        m = \beta p + (1 - \beta) q

    with :math:`p = \operatorname{softmax}(t / T)` of the teacher and
    :math:`q = \operatorname{softmax}(s / T)` of the student. ``beta=0`` is the forward
    :math:`\mathrm{KL}(p \,\|\, q)` and ``beta=1`` the reverse :math:`\mathrm{KL}(q \,\|\, p)`: not
    the limits of the formula, which are 0, but of the formula over :math:`\beta` and over
    :math:`1 - \beta`. There is no factor :math:`T^2`.

    Args:
        input: logits :math:`s` of the student, floating point.
        target: logits :math:`t` of the teacher, the shape of ``input``.
        beta: the teacher's share of the mixture, from 0 to 1.
        temperature: what both logits are divided by, above 0.
        weight: how much each item counts, the shape of the values.
        mask: which items count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of items that count, not of classes.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input, target: :math:`(N, C, *)`, or :math:`(C)` for a single item. The tokens of a
          language model are items: ``logits.flatten(0, 1)``.
        - Output: scalar; for ``"none"`` :math:`(N, *)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import gkd_jsd_loss
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 0.0, 0.0]])
        >>> [round(gkd_jsd_loss(student, teacher, beta=beta).item(), 4) for beta in (0.0, 0.5, 1.0)]
        [0.433, 0.1087, 0.4743]

    Source:
        Agarwal et al. (2024), On-policy distillation of language models: learning from
        self-generated mistakes.
    """
    pair(input, target)
    number("beta", beta, minimum=0, maximum=1)
    number("temperature", temperature, above=0)

    def values(student: Tensor, teacher: Tensor) -> Tensor:
        log_p = log_softmax(teacher / temperature)
        log_q = log_softmax(student / temperature)
        if beta == 0:
            return categorical_kl(log_p, log_q)
        return categorical_kl(log_q, log_p) if beta == 1 else categorical_jsd(log_p, log_q, beta)

    def gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
        value, slope = jsd_and_gradient(log_p, log_q, beta)
        return value, slope / temperature

    return reduce_distributions(
        values,
        (input, target),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=gradient if 0 < beta < 1 else None,
    )


GKDJSDLoss = as_module(gkd_jsd_loss, name="GKDJSDLoss")


@loss(
    inputs="input float[8,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("router z-loss", "logit regularisation", "PaLM"),
    peers={"liger-kernel": "inside its cross entropy, as `lse_square_scale`"},
)
def z_loss(
    input: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Z-loss: keeps the normaliser of a softmax near 1, so that logits do not drift.

    .. math::
        v = \left( \log \sum_c \exp z_c \right)^2

    It is added to the cross entropy with a small factor: 1e-4 in PaLM, 1e-3 for the router of a
    mixture of experts.

    Args:
        input: logits :math:`z`, floating point.
        weight: how much each item counts, the shape of the values.
        mask: which items count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, *)`, or :math:`(C)` for a single item.
        - Output: scalar; for ``"none"`` :math:`(N, *)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: a shape does not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import z_loss
        >>> z_loss(torch.tensor([[0.0, 0.0], [3.0, 3.0]]), reduction="none")
        tensor([ 0.4805, 13.6393])

    Source:
        Zoph et al. (2022), ST-MoE: designing stable and transferable sparse expert models.
        Chowdhery et al. (2023), PaLM: scaling language modeling with pathways.
    """
    axes("input", tensor("input", input), -1, layout="(N, C, *) or (C)")

    def values(input: Tensor) -> Tensor:
        return input.logsumexp(1).square()

    return reduce_distributions(
        values, (input,), weight, reduction, mask=mask, normalizer=normalizer
    )


ZLoss = as_module(z_loss)
