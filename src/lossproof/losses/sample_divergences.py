"""Divergences between distributions of which only samples are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lossproof.losses._blocks import in_blocks
from lossproof.losses._distances import root, squared_distances
from lossproof.losses._embeddings import unit_vectors
from lossproof.losses._sinkhorn import divergence_in_blocks
from lossproof.losses._two_samples import mean_difference, median_of_pairs
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, integer, number, same_device, tensor
from lossproof.write.module import as_module

Tensor = torch.Tensor


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

    The pairs of large samples are gone through in blocks, so that memory grows with :math:`N + M`;
    but not for second derivatives, in a compiled graph, under ``torch.func`` and in forward mode.

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
    points = torch.cat((input, target))
    if widths is None:
        median = median_of_pairs(points)
        return mean_difference(
            lambda square: (-0.5 * square / median).exp(), points, input.shape[0], estimator
        )

    def kernel(square: Tensor) -> Tensor:
        kernels = [(-0.5 * (square / width) / width).exp() for width in widths]
        return torch.stack(kernels).mean(0)

    return mean_difference(kernel, points, input.shape[0], estimator)


MMDLoss = as_module(mmd_loss, name="MMDLoss")


@loss(
    inputs="input float[8,3]; target float[10,3]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=True,
    also=("Cramer", "Szekely"),
    peers={
        "geomloss": "`SamplesLoss('energy')`, half of it, with a floor of 1e-4 under distances",
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

    The pairs of large samples are gone through in blocks, so that memory grows with :math:`N + M`;
    but not for second derivatives, in a compiled graph, under ``torch.func`` and in forward mode.

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
    points = torch.cat((input, target))
    return -mean_difference(root, points, input.shape[0], estimator)


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
    if input.shape[0] != target.shape[0]:
        raise ValueError(
            "`input` and `target` must have as many points, "
            f"got {list(input.shape)} and {list(target.shape)}"
        )
    if number("p", p) not in (1, 2):
        raise ValueError(f"`p` must be 1 or 2, got {p!r}")
    points = torch.cat((input, target))
    directions = unit_vectors(projections).to(points.dtype).mT
    first, second = (p.sort(0).values for p in (points @ directions).tensor_split(2))
    apart = first - second
    powers = apart.abs() if p == 1 else apart.square()
    return powers.sum() / max(1, powers.numel())


SlicedWassersteinLoss = as_module(sliced_wasserstein_loss)


def soft_minimum(cost: Tensor, potential: Tensor, epsilon: Tensor) -> Tensor:
    """The smallest cost less potential of each row, softened by the regularisation."""
    # The count as a tensor: math.log would fix it in a graph of dynamic shapes.
    count = potential.new_full((), cost.shape[1])
    return -epsilon * (((potential - cost) / epsilon).logsumexp(1) - count.log())


def softening(largest: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The regularisation of each iteration: from the largest cost down to what is wanted."""
    start = largest.clamp(min=epsilon) / epsilon
    steps = torch.arange(iterations, device=largest.device, dtype=largest.dtype)
    left = (1 - 2 * steps / iterations).clamp(min=0)  # the second half stays at epsilon
    return epsilon * start**left


def transported(
    costs: tuple[Tensor, ...], potentials: tuple[Tensor, ...], epsilon: Tensor
) -> tuple[Tensor, ...]:
    """The potentials that belong to the others: of x to y, of y to x, of x to x and of y to y."""
    first, second, first_own, second_own = potentials
    against = (second, first, first_own, second_own)
    return tuple(soft_minimum(c, p, epsilon) for c, p in zip(costs, against, strict=True))


@loss(
    inputs="input float[6,3]; target float[8,3]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=True,
    also=("optimal transport", "Wasserstein", "earth mover", "entropic"),
    peers={
        "geomloss": "`SamplesLoss('sinkhorn', p=2, blur=sqrt(epsilon / 2))`, which is half of it; "
        "its gradient is that of fixed potentials; its default `scaling` ends 1e-2 off",
    },
)
def sinkhorn_loss(
    input: Tensor,
    target: Tensor,
    *,
    epsilon: float = 0.1,
    iterations: int = 20,
) -> Tensor:
    r"""Sinkhorn divergence: entropic optimal transport between two samples, without its bias.

    .. math::
        v = \mathrm{OT}_\varepsilon(x, y) - \tfrac12 \mathrm{OT}_\varepsilon(x, x)
        - \tfrac12 \mathrm{OT}_\varepsilon(y, y), \qquad
        \mathrm{OT}_\varepsilon(x, y) = \min_\pi \sum_{ij} \pi_{ij} \|x_i - y_j\|^2
        + \varepsilon \, \mathrm{KL}(\pi \,\|\, \tfrac{1}{NM})

    Between the squared Wasserstein distance (:math:`\varepsilon \to 0`) and the squared distance of
    the means (:math:`\varepsilon \to \infty`); 0 for equal samples after any number of iterations.
    The potentials are found in the logarithmic domain, with a regularisation that falls from the
    largest cost to :math:`\varepsilon`. The gradient is the exact one of the number that comes out,
    through all iterations. Computed in float64 where there is one.

    The pairs of large samples are gone through in blocks, once more in each iteration and for the
    gradient, so that memory grows with :math:`N + M` alone; but not for second derivatives, in a
    compiled graph, under ``torch.func`` and in forward mode: there it grows with the number of
    iterations times :math:`(N + M)^2`.

    Args:
        input: points :math:`x`, floating point.
        target: points :math:`y`; there may be more or fewer of them.
        epsilon: the regularisation, above 0, in the unit of squared distances.
        iterations: how many updates of the potentials; a smaller ``epsilon`` needs more.

    Shape:
        - Input: :math:`(N, D)`, target: :math:`(M, D)`.
        - Output: scalar, in the unit of squared distances.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the points have different numbers of dimensions, or an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.losses import sinkhorn_loss
        >>> input, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
        >>> sinkhorn_loss(input, target, epsilon=0.01)
        tensor(2.)

    Source:
        Feydy et al. (2019), Interpolating between optimal transport and MMD using Sinkhorn
        divergences. Cuturi (2013), Sinkhorn distances: lightspeed computation of optimal transport.
    """
    samples("input", input)
    samples("target", target, input)
    number("epsilon", epsilon, above=0)
    integer("iterations", iterations, minimum=1)
    points = torch.cat((input, target))
    if not input.shape[0] or not target.shape[0]:
        return 0.0 * points.sum()
    wide = points if points.device.type == "mps" else points.double()
    count = input.shape[0]

    def soften(largest: Tensor) -> Tensor:
        return softening(largest, epsilon, iterations)

    def plain(points: Tensor) -> Tensor:
        return _divergence(points, count, epsilon, soften)

    if in_blocks(points.shape[0] ** 2, (wide,)):
        value = divergence_in_blocks(plain, wide, count, epsilon, soften)
    else:
        value = plain(wide)
    return value.to(points.dtype)


def _divergence(
    points: Tensor, count: int, epsilon: float, soften: Callable[[Tensor], Tensor]
) -> Tensor:
    """The divergence of the first points and the others."""
    square = squared_distances(points)
    costs = (
        square[:count, count:],
        square[count:, :count],
        square[:count, :count],
        square[count:, count:],
    )
    potentials = tuple(square.new_zeros(cost.shape[0]) for cost in costs)
    for softness in soften(square.amax()).unbind():
        updated = transported(costs, potentials, softness)
        potentials = tuple((old + new) / 2 for old, new in zip(potentials, updated, strict=True))
    first, second, first_own, second_own = transported(
        costs, potentials, square.new_tensor(epsilon)
    )
    return (first - first_own).mean() + (second - second_own).mean()


SinkhornLoss = as_module(sinkhorn_loss)
