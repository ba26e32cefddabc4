"""Divergences between distributions of which only samples are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lossproof.losses._distances import root, squared_distances
from lossproof.losses._embeddings import unit_vectors
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, choice, number, same_device, tensor
from lossproof.write.module import as_module

Tensor = torch.Tensor

ESTIMATORS = ("biased", "unbiased")


def samples(name: str, value: Tensor, like: Tensor | None = None) -> Tensor:
    """Points (N, D), in as many dimensions as the others.

    Raises:
        TypeError: it is no floating-point tensor.
        ValueError: it has another number of axes, or its points are not like the others.
    """
    axes(name, tensor(name, value), 2, layout="(N, D)")
    if like is not None:
        same_device(like, value, ("input", name))
        if value.shape[1] != like.shape[1]:
            raise ValueError(
                f"`input` and `{name}` must have points of as many numbers, "
                f"got {list(like.shape)} and {list(value.shape)}"
            )
    return value


def mean_difference(of_pairs: Tensor, count: int, estimator: str) -> Tensor:
    """The mean within either sample, minus twice the mean between them.

    Args:
        of_pairs: a number for each pair of the points of both samples, those of the first first.
        count: how many points the first sample has.
        estimator: whether the pairs of a point with itself count, ``"biased"``, or not.

    Raises:
        ValueError: without those pairs there are none.
    """
    choice("estimator", estimator, ESTIMATORS)
    sizes = (count, len(of_pairs) - count)
    if 0 in sizes:
        return 0.0 * of_pairs.sum()
    own = 0 if estimator == "biased" else 1
    if min(sizes) <= own:
        raise ValueError(f"estimator='unbiased' needs two points of each, got {min(sizes)}")
    if own:
        of_pairs = of_pairs - of_pairs.diagonal().diag_embed()
    first, second = of_pairs[:count], of_pairs[count:]
    within = first[:, :count].sum() / (sizes[0] * (sizes[0] - own))
    within = within + second[:, count:].sum() / (sizes[1] * (sizes[1] - own))
    return within - 2 * first[:, count:].mean()


def median_of_pairs(square: Tensor) -> Tensor:
    """The median squared distance of different points, held constant; 1 where it is 0."""
    itself = torch.eye(len(square), dtype=torch.bool, device=square.device)
    median = torch.where(itself, math.nan, square.detach()).flatten().nanmedian()
    return torch.where(median > 0, median, 1.0)


def kernel_widths(bandwidths: Any) -> list[float] | None:
    """The bandwidths as a list, which holds at least one; ``None`` stands for the median.

    Raises:
        TypeError: one is no number.
        ValueError: one is not above 0, or there are none.
    """
    if bandwidths is None:
        return None
    given = bandwidths if isinstance(bandwidths, Sequence) else [bandwidths]
    if not given:
        raise ValueError("`bandwidths` must hold at least one number")
    return [number("bandwidths", width, above=0) for width in given]


@loss(
    inputs="input float[8,3]; target float[10,3]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=True,
    module="MMDLoss",
    also=("maximum mean discrepancy", "kernel two-sample", "domain adaptation"),
    stops_gradient="the bandwidth, where it is the median of the distances",
    peers={
        "geomloss": "`SamplesLoss('gaussian', blur=bandwidth)`, which is half of it",
        "common code": "sums five bandwidths around the mean distance",
    },
)
def mmd_loss(
    input: Tensor,
    target: Tensor,
    *,
    bandwidths: float | Sequence[float] | None = None,
    estimator: str = "biased",
) -> Tensor:
    r"""Squared maximum mean discrepancy of two samples, with Gaussian kernels.

    .. math::
        v = \overline{k(x, x')} + \overline{k(y, y')} - 2 \, \overline{k(x, y)}, \qquad
        k(a, b) = \frac1B \sum_{b=1}^B \exp\left( -\frac{\|a - b\|^2}{2 \sigma_b^2} \right)

    Without bandwidths there is one, the median distance of all different points of both samples,
    which is held constant in the gradient. There are no values of single points.

    Args:
        input: points :math:`x`, floating point.
        target: points :math:`y`; there may be more or fewer of them.
        bandwidths: one or several :math:`\sigma_b`, above 0, in the unit of the points.
        estimator: ``"biased"`` counts the pairs of a point with itself and is never negative,
            ``"unbiased"`` does not, and needs two points of each.

    Shape:
        - Input: :math:`(N, D)`, target: :math:`(M, D)`.
        - Output: scalar.

    Raises:
        TypeError: a tensor is not floating point, or a bandwidth is no number.
        ValueError: the points have different numbers of dimensions, or an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.losses import mmd_loss
        >>> input, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
        >>> mmd_loss(input, target, bandwidths=1.0)
        tensor(0.4323)

    Source:
        Gretton et al. (2012), A kernel two-sample test.
    """
    samples("input", input)
    samples("target", target, input)
    widths = kernel_widths(bandwidths)
    square = squared_distances(torch.cat((input, target)))
    if widths is None:
        kernel = (-0.5 * square / median_of_pairs(square)).exp()
    else:
        kernels = [(-0.5 * (square / width) / width).exp() for width in widths]
        kernel = torch.stack(kernels).mean(0)
    return mean_difference(kernel, len(input), estimator)


MMDLoss = as_module(mmd_loss, name="MMDLoss")


@loss(
    inputs="input float[8,3]; target float[10,3]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=True,
    also=("Cramer", "Szekely"),
    peers={
        "geomloss": "`SamplesLoss('energy')`, which is half of it",
        "scipy": "`energy_distance`, for numbers only: its square is half of it",
    },
)
def energy_distance_loss(
    input: Tensor,
    target: Tensor,
    *,
    estimator: str = "biased",
) -> Tensor:
    r"""Energy distance: how much farther points of two samples are from the others than their own.

    .. math::
        v = 2 \, \overline{\|x - y\|} - \overline{\|x - x'\|} - \overline{\|y - y'\|}

    It has no bandwidth to choose. Where two points meet, the gradient of their distance is 0. There
    are no values of single points.

    Args:
        input: points :math:`x`, floating point.
        target: points :math:`y`; there may be more or fewer of them.
        estimator: ``"biased"`` counts the pairs of a point with itself and is never negative,
            ``"unbiased"`` does not, and needs two points of each.

    Shape:
        - Input: :math:`(N, D)`, target: :math:`(M, D)`.
        - Output: scalar, in the unit of the points.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the points have different numbers of dimensions, or an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.losses import energy_distance_loss
        >>> input, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
        >>> energy_distance_loss(input, target)
        tensor(1.)

    Source:
        Székely, Rizzo (2013), Energy statistics: a class of statistics based on distances.
    """
    samples("input", input)
    samples("target", target, input)
    distances = root(squared_distances(torch.cat((input, target))))
    return -mean_difference(distances, len(input), estimator)


EnergyDistanceLoss = as_module(energy_distance_loss)


@loss(
    inputs="input float[8,3]; target float[8,3]; projections float[6,3]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=True,
    also=("optimal transport", "SWD", "Radon"),
    peers={"POT": "the root of it, with directions drawn inside"},
)
def sliced_wasserstein_loss(
    input: Tensor,
    target: Tensor,
    projections: Tensor,
    *,
    p: int = 2,
) -> Tensor:
    r"""Sliced Wasserstein distance: two samples, sorted along many lines and compared in order.

    .. math::
        v = \frac1L \sum_{l=1}^L \frac1N \sum_{i=1}^N
        \left| (\theta_l^\top x)_{(i)} - (\theta_l^\top y)_{(i)} \right|^p

    It is the p-th power of the distance, without its root. The directions :math:`\theta_l` are
    given, so that nothing is random here: ``torch.randn(64, D)``, new ones for each batch, gives
    directions that are uniform. Ties keep an arbitrary order, which no value depends on.

    Args:
        input: points :math:`x`, floating point.
        target: points :math:`y`, as many as of ``input``.
        projections: directions, of any length above 0.
        p: the power, 1 or 2.

    Shape:
        - Input, target: :math:`(N, D)`, projections: :math:`(L, D)`.
        - Output: scalar.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or ``p`` is neither 1 nor 2.

    Example:
        >>> import torch
        >>> from lossproof.losses import sliced_wasserstein_loss
        >>> input = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> target = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> sliced_wasserstein_loss(input, target, torch.eye(2))
        tensor(5.)

    Source:
        Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters of measures.
    """
    samples("input", input)
    samples("target", target, input)
    samples("projections", projections, input)
    if len(input) != len(target):
        raise ValueError(
            "`input` and `target` must have as many points, "
            f"got {list(input.shape)} and {list(target.shape)}"
        )
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"`p` must be 1 or 2, got {p!r}")
    directions = unit_vectors(projections).mT
    first, second = (input @ directions).sort(0).values, (target @ directions).sort(0).values
    apart = first - second
    powers = apart.abs() if p == 1 else apart.square()
    return powers.sum() / max(1, powers.numel())


SlicedWassersteinLoss = as_module(sliced_wasserstein_loss)
