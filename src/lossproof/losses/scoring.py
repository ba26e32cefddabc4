"""Proper scores of a whole predicted distribution: CRPS and the energy score."""

from __future__ import annotations

import math
from functools import partial

import torch

from lossproof.losses._distribution import counting, of_items, positive
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, fits, flag, pair, same_device, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target float[8,4]; scale positive[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="CRPSGaussianLoss",
    also=("continuous ranked probability score", "normal", "emos", "probabilistic forecast"),
    peers={"scoringrules": "`crps_normal`, the same; takes the target first"},
)
def crps_gaussian_loss(
    input: Tensor,
    target: Tensor,
    scale: Tensor | float,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""CRPS of a normal distribution: the absolute error of a forecast that is uncertain.

    .. math::
        v = \int \left( F(x) - 1\{x \ge y\} \right)^2 dx
          = e\, \text{erf}\left( \frac{z}{\sqrt 2} \right)
            + \sigma \left( \frac{2 e^{-z^2/2}}{\sqrt{2\pi}} - \frac{1}{\sqrt\pi} \right),
        \qquad e = \hat y - y, \quad z = \frac e\sigma

    In the unit of the target, and finite in the tails: far away it is
    :math:`|e| - \sigma/\sqrt\pi`.

    Args:
        input: predicted means :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        scale: predicted standard deviations :math:`\sigma` above 0, the shape of ``input``, or a
            number.
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
        ValueError: the shapes differ, a scale that counts is not positive, or an option is out of
            its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import crps_gaussian_loss
        >>> crps_gaussian_loss(torch.tensor([0.0, 100.0]), torch.zeros(2), 1.0, reduction="none")
        tensor([ 0.2337, 99.4358])

    Source:
        Gneiting, Raftery, Westveld, Goldman (2005), Calibrated probabilistic forecasting using
        ensemble model output statistics and minimum CRPS estimation.
    """
    pair(input, target)
    scale = positive("scale", scale, input, counting(mask, input))

    def values(input: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        error = input - target
        z = error / scale
        density = torch.exp(-0.5 * z.square()) * math.sqrt(2 / math.pi)  # twice the normal one
        return error * torch.erf(z * math.sqrt(0.5)) + scale * (density - 1 / math.sqrt(math.pi))

    return reduce_swept(
        values,
        (input, target, scale),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        fill=(0.0, 0.0, 1.0),
    )


CRPSGaussianLoss = as_module(crps_gaussian_loss, name="CRPSGaussianLoss")


@loss(
    inputs="input float[8,6]; target float[8]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="CRPSEnsembleLoss",
    also=("continuous ranked probability score", "samples", "fair crps", "almost fair crps"),
    peers={
        "torchmetrics": "the same, by all pairs of members: memory and time grow with m squared",
        "scoringrules": "`crps_ensemble(estimator='qd')`, and `'fair'`; takes the target first",
        "neuralforecast": "`sCRPS`: from quantiles, scaled by the targets",
    },
)
def crps_ensemble_loss(
    input: Tensor,
    target: Tensor,
    *,
    fair: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""CRPS of an ensemble: the mean distance to the target less half that between the members.

    .. math::
        v = \frac1m \sum_i |x_i - y| - \frac{1}{2 n} \sum_{i,j} |x_i - x_j|,
        \qquad n = m^2 \text{ or } m(m - 1)

    It is computed from the sorted members, in which every term is positive: no digits cancel, and
    it takes :math:`m \log m` steps. Members that are equal repel one another: their gradients are
    those of one of their orders.

    Args:
        input: the members :math:`x` of the ensemble, the shape of ``target`` and a last axis of m,
            floating point.
        target: targets :math:`y`, any shape, floating point.
        fair: whether the members are compared with the others only, :math:`n = m(m - 1)`. That
            score does not depend on m in the mean: it is the one of the distribution that the
            members were drawn from. It may be 0 for members around the target, as for two of them.
        weight: how much each item counts, the shape of ``target`` or 1 where it is the same for
            all.
        mask: which items count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, m)`, m of at least 1, and of at least 2 with ``fair``. Target:
          :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import crps_ensemble_loss
        >>> members, target = torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([3.0])
        >>> crps_ensemble_loss(members, target)
        tensor(0.8889)
        >>> crps_ensemble_loss(members, target, fair=True)
        tensor(0.3333)

    Source:
        Gneiting, Raftery (2007), Strictly proper scoring rules, prediction, and estimation; for
        ``fair`` Ferro (2014), Fair scores for ensemble forecasts.
    """
    of_items(input, target, "members")
    flag("fair", fair)
    _enough(input.shape[-1], fair)
    if target.ndim == 0:
        weight, mask = (_lifted(t) for t in (weight, mask))
    batch = target.unsqueeze(0) if target.ndim == 0 else target
    value = reduce_swept(
        partial(_ensemble_values, fair=fair),
        (input.unsqueeze(0) if target.ndim == 0 else input.movedim(-1, 1), batch),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=partial(_ensemble_gradient, fair=fair),
        class_axis=True,
    )
    return value.reshape(target.shape) if reduction == "none" else value


def _enough(members: int, fair: bool) -> None:
    if fair and members < 2:
        raise ValueError(f"`input` must hold at least 2 members with fair=True, got {members}")


def _lifted(option: Tensor | None) -> Tensor | None:
    """A weight or a mask of one item, as one of a batch of one."""
    return option.unsqueeze(0) if isinstance(option, torch.Tensor) else option


def _ranked(input: Tensor, target: Tensor, fair: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The errors of the members in ascending order, that order, and the factor of each error.

    Of the members below the i-th and above it, those between it and the target count twice.
    """
    errors, order = (input - target.unsqueeze(1)).sort(1)
    m = input.shape[1]
    rank = torch.arange(1 - m, m, 2, dtype=input.dtype, device=input.device)
    rank = rank.reshape(m, *[1] * (input.ndim - 2))
    return errors, order, (errors.sign() - rank / (m - 1 if fair else m)) / m


def _ensemble_values(input: Tensor, target: Tensor, *, fair: bool) -> Tensor:
    errors, _, factor = _ranked(input, target, fair)
    return (errors * factor).sum(1)


def _ensemble_gradient(input: Tensor, target: Tensor, *, fair: bool) -> tuple[Tensor, Tensor]:
    errors, order, factor = _ranked(input, target, fair)
    return (errors * factor).sum(1), torch.empty_like(errors).scatter_(1, order, factor)


CRPSEnsembleLoss = as_module(crps_ensemble_loss, name="CRPSEnsembleLoss")


@loss(
    inputs="input float[8,5,3]; target float[8,3]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("multivariate crps", "energy distance", "ensemble", "samples"),
    peers={"scoringrules": "`es_ensemble`, the same; takes the target first"},
)
def energy_score_loss(
    input: Tensor,
    target: Tensor,
    *,
    fair: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Energy score: the CRPS of an ensemble of vectors.

    .. math::
        v = \frac1m \sum_i \|x_i - y\| - \frac{1}{2 n} \sum_{i,j} \|x_i - x_j\|,
        \qquad n = m^2 \text{ or } m(m - 1)

    Its memory grows with :math:`m^2 d`. At two equal vectors their distance has the gradient 0.

    Args:
        input: the members :math:`x` of the ensemble, vectors of size d, floating point.
        target: the vectors :math:`y`, floating point.
        fair: whether the members are compared with the others only, :math:`n = m(m - 1)`, so that
            the score does not depend on m in the mean.
        weight: how much each vector of the target counts, the shape of ``target`` without its last
            axis, or 1 where it is the same for all.
        mask: which of them count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of vectors that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, m, d)`, m of at least 1, and of at least 2 with ``fair``. Target:
          :math:`(*, d)`.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import energy_score_loss
        >>> members, target = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[0.0, 0.0]])
        >>> energy_score_loss(members, target)
        tensor(1.2500)

    Source:
        Gneiting, Raftery (2007), Strictly proper scoring rules, prediction, and estimation.
    """
    _vectors(input, target)
    flag("fair", fair)
    m = input.shape[-2]
    _enough(m, fair)
    if mask is not None:
        counts = fits("mask", mask, target[..., 0], kind="bool")
        input = torch.where(counts[..., None, None], input, 0.0)
        target = torch.where(counts[..., None], target, 0.0)
    one, other = torch.triu_indices(m, m, 1, device=input.device)
    apart = _norm(input.index_select(-2, one) - input.index_select(-2, other)).sum(-1)
    values = _norm(input - target.unsqueeze(-2)).mean(-1) - apart / (m * (m - 1 if fair else m))
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _vectors(input: Tensor, target: Tensor) -> None:
    axes("input", tensor("input", input), -2, layout="(*, m, d)")
    axes("target", tensor("target", target), -1, layout="(*, d)")
    same_device(input, target, ("input", "target"))
    batch, size = target.shape[:-1], target.shape[-1]
    if input.shape[:-2] != batch or input.shape[-1] != size or 0 in input.shape[-2:]:
        raise ValueError(
            f"`input` must have the shape of `target`, {list(target.shape)}, and an axis for the "
            f"members before the last, got {list(input.shape)}"
        )


def _norm(vectors: Tensor) -> Tensor:
    """The Euclidean norm, with the gradient 0 at 0."""
    square = vectors.square().sum(-1)
    somewhere = square != 0
    return torch.where(somewhere, torch.where(somewhere, square, 1.0).sqrt(), 0.0)


EnergyScoreLoss = as_module(energy_score_loss)
