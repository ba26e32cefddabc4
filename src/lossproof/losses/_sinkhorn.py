r"""The Sinkhorn divergence of large samples: no cost matrix is kept, and none for each iteration.

The potentials of all points, of both samples, stand in one vector :math:`h`. One iteration needs

.. math::
    \rho_i = \log \sum_j \exp e_{ij}, \qquad
    e_{ij} = \frac{h_i + h_j - \|x_i - x_j\|^2}{\varepsilon}

which is one product of matrices, block by block, and symmetric: a block gives the sums of its rows
and of its columns. (To the points of the other sample go the potentials of the transport between
the samples, to those of the same sample the potentials of the transport within.)

The gradient goes back through all iterations. What it needs of each are its potentials and sums
alone. First the gradients in the potentials are found, iteration by iteration, then those in the
squared distances: block by block, summed over the iterations before they go to the points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.losses._blocks import strips, tiles
from lossproof.losses._distances import Centred
from lossproof.losses._pair_sums import DistanceGradient
from lossproof.speed.pair_autograd import are_many

Tensor = torch.Tensor
Softening = Callable[[Tensor], Tensor]
"""From the largest cost to the regularisation of each iteration."""


def divergence_in_blocks(
    plain: Callable[[Tensor], Tensor],
    points: Tensor,
    count: int,
    epsilon: float,
    softening: Softening,
) -> Tensor:
    """The Sinkhorn divergence of two samples.

    Args:
        plain: the same of these points, by operations that can be differentiated twice.
        points: the points of both samples, those of the first first, in the widest precision.
        count: how many points the first sample has.
        epsilon: the regularisation at the end.
        softening: that of the iterations before.
    """
    value: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
        plain, points, count, epsilon, softening
    )
    return value


class _Divergence(torch.autograd.Function):
    """The value; of each iteration the potentials and the sums are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        plain: Callable[[Tensor], Tensor],
        points: Tensor,
        count: int,
        epsilon: float,
        softening: Softening,
    ) -> Tensor:
        ctx.plain, ctx.softening = plain, softening
        ctx.save_for_backward(points)
        batch = Centred.of(points)
        largest, ctx.farthest = _farthest(batch)
        first, second = range(count), range(count, len(points))
        between = _Transport(batch, ((first, second),))
        within = _Transport(batch, ((first, first), (second, second)))
        sizes = [float(len(first))] * len(first), [float(len(second))] * len(second)
        own = points.new_tensor(sizes[0] + sizes[1])
        other = len(points) - own
        softness = (*softening(largest).tolist(), epsilon)
        ctx.share = 1 / own
        ctx.runs = [
            (sign, _Run(transport, targets.log(), softness))
            for sign, transport, targets in ((1.0, between, other), (-1.0, within, own))
        ]
        ctx.largest = largest
        of_between, of_within = ((ctx.share * run.final).sum() for _, run in ctx.runs)
        difference: Tensor = of_between - of_within
        return difference

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (points,) = ctx.saved_tensors
        twice = torch.is_grad_enabled()  # the gradient itself is to be differentiated
        if twice or are_many(grad):
            with torch.enable_grad():
                value = ctx.plain(points)
            (gradient,) = torch.autograd.grad(value, points, grad, create_graph=twice)
            return None, gradient, None, None, None
        batch = ctx.runs[0][1].transport.batch
        found = DistanceGradient(batch)
        # Of the value itself, so that a batch of upstream gradients can follow.
        of_softness = sum(run.backward(sign * ctx.share, found) for sign, run in ctx.runs)
        with torch.enable_grad():
            largest = ctx.largest.clone().requires_grad_()
            softness = ctx.softening(largest)
            (slope,) = torch.autograd.grad(softness, largest, of_softness[:-1])
        one, other = ctx.farthest
        found.add(slope.reshape(1, 1), slice(one, one + 1), slice(other, other + 1))
        return None, grad * found.finished(), None, None, None


def _farthest(batch: Centred) -> tuple[Tensor, tuple[int, int]]:
    """The largest squared distance, and of which points it is."""
    every = range(batch.vectors.shape[0])
    largest, places = [], []
    for rows, columns in tiles(every, every, batch.vectors.device, once=True):
        square = batch.squared_distances(rows, columns)
        value, place = square.flatten().max(0)
        largest.append(value)
        places.append((rows.start, columns.start, square.shape[1], place))
    value, tile = torch.stack(largest).max(0)
    row, column, width, place = places[int(tile)]
    return value, (row + int(place) // width, column + int(place) % width)


@dataclass(frozen=True)
class _Transport:
    """Between which points is transported.

    Args:
        batch: all points.
        parts: the rows and columns of the matrix of costs; the same for a sample and itself.
    """

    batch: Centred
    parts: tuple[tuple[range, range], ...]

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """The blocks of the matrix, one for a block and its mirror image."""
        for one, other in self.parts:
            yield from tiles(one, other, self.batch.vectors.device, once=one == other)

    def factors(self, potential: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """What the exponents are products of: rows of the first with rows of the second."""
        vectors, size = self.batch.vectors, self.batch.size
        own, ones = (potential.unsqueeze(1) - size) / epsilon, torch.ones_like(size)
        return torch.cat((vectors * (2 / epsilon), own, ones), 1), torch.cat(
            (vectors, ones, own), 1
        )

    def log_sums(self, potential: Tensor, epsilon: float) -> tuple[Tensor, bool]:
        """The sums, as logarithms, and whether the exponentials can be computed as they are."""
        first, second = self.factors(potential, epsilon)
        sums = torch.zeros_like(potential)
        for rows, columns in self.tiles():
            kernel = (first[rows] @ second[columns].T).exp_()
            sums[rows] += kernel.sum(1)
            if rows != columns:
                sums[columns] += kernel.sum(0)
        largest = torch.finfo(sums.dtype).max ** 0.8
        if bool(((sums > 1 / largest) & (sums < largest)).all()):
            return sums.log(), True
        for parts in self.parts:
            for anchors, others in (parts, parts[::-1]):
                of_others = second[others.start : others.stop].T
                for strip in strips(len(anchors), len(others), sums.device):
                    place = slice(anchors.start + strip.start, anchors.start + strip.stop)
                    sums[place] = (first[place] @ of_others).logsumexp(1)
        return sums, False


@dataclass(frozen=True)
class _Step:
    """One iteration: what its exponentials are computed from."""

    epsilon: float
    potential: Tensor
    log_sums: Tensor
    plain: bool
    """Whether the exponentials can be computed as they are; otherwise less the sum of their row."""

    def weigh(self, gradient: Tensor) -> Tensor:
        """The gradient in the logarithms of the sums, as a factor for :meth:`exponentials`."""
        return gradient * (-self.log_sums).exp() if self.plain else gradient

    def exponentials(self, exponents: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Of a block, for the sums of its rows and for those of its columns."""
        if self.plain:
            kernel = exponents.exp_()
            return kernel, kernel
        # No part is larger than its sum, but for rounding, which is large where the costs are.
        of_rows = (exponents - self.log_sums[rows].unsqueeze(1)).clamp_(max=0).exp_()
        return of_rows, exponents.sub_(self.log_sums[columns]).clamp_(max=0).exp_()


class _Run:
    """The potentials of all iterations, and their gradients.

    Args:
        transport: between which points.
        log_counts: the logarithm of the number of points that each is transported to.
        softness: the regularisation of each iteration, and of the evaluation at the end.
    """

    def __init__(
        self, transport: _Transport, log_counts: Tensor, softness: tuple[float, ...]
    ) -> None:
        self.transport = transport
        self._log_counts = log_counts
        self._steps: list[_Step] = []
        potential = torch.zeros_like(log_counts)
        for epsilon in softness:
            step = _Step(epsilon, potential, *transport.log_sums(potential, epsilon))
            self._steps.append(step)
            self.final = self._updated(step)
            potential = (potential + self.final) / 2

    def _updated(self, step: _Step) -> Tensor:
        """The soft minimum of cost less potential of each point."""
        return step.potential - step.epsilon * (step.log_sums - self._log_counts)

    def backward(self, grad: Tensor, found: DistanceGradient) -> Tensor:
        """Add to the gradient in the points; that in the regularisations is returned.

        Args:
            grad: the gradient in the last soft minima.
            found: where the gradients in squared distances go.
        """
        slopes: list[Tensor] = []  # in the logarithms of the sums, from the last iteration on
        of_softness: list[Tensor] = []
        further = torch.zeros_like(grad)  # in the potentials of the iteration, on other ways
        for number in range(len(self._steps) - 1, -1, -1):
            step = self._steps[number]
            slope = -step.epsilon * grad
            slopes.insert(0, slope)
            of_softness.insert(0, (grad * (self._log_counts - step.log_sums)).sum())
            if number:
                grad = (further + self._in_potentials(step, slope)) / 2
                further = grad
        return torch.stack(of_softness) + self._in_distances(slopes, found)

    def _in_potentials(self, step: _Step, slope: Tensor) -> Tensor:
        """The gradient in the potentials that the soft minima were computed from."""
        first, second = self.transport.factors(step.potential, step.epsilon)
        factor, total = step.weigh(slope), torch.zeros_like(slope)
        for rows, columns in self.transport.tiles():
            exponents = first[rows] @ second[columns].T
            of_rows, of_columns = step.exponentials(exponents, rows, columns)
            total[columns] += factor[rows] @ of_rows
            if rows != columns:
                total[rows] += of_columns @ factor[columns]
        return total / step.epsilon

    def _in_distances(self, slopes: list[Tensor], found: DistanceGradient) -> Tensor:
        """Add the gradient in the distances; that in the regularisations through the exponents.

        The latter only where the regularisation still falls: what it ends at is a constant.
        """
        factors = [step.weigh(slope) for step, slope in zip(self._steps, slopes, strict=True)]
        of_softness = slopes[0].new_zeros(len(self._steps))
        for rows, columns in self.transport.tiles():
            square = self.transport.batch.squared_distances(rows, columns)
            total = torch.zeros_like(square)
            for number, (step, factor) in enumerate(zip(self._steps, factors, strict=True)):
                potential = step.potential / step.epsilon
                exponents = torch.sub(
                    potential[rows].unsqueeze(1), square, alpha=1 / step.epsilon
                ).add_(potential[columns])
                softened = step.epsilon != self._steps[-1].epsilon
                kept = exponents.clone() if softened else None
                of_rows, of_columns = step.exponentials(exponents, rows, columns)
                weights = of_rows * factor[rows].unsqueeze(1)
                if rows != columns:
                    weights.addcmul_(of_columns, factor[columns])
                if kept is not None:
                    of_softness[number] -= kept.mul_(weights).sum() / step.epsilon
                total.sub_(weights, alpha=1 / step.epsilon)
            found.add(total, rows, columns)
        return of_softness
