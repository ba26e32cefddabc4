"""The Helmholtz problem of Wang, Teng & Perdikaris (SISC 2021), as their released code states it.

u = sin(pi x) sin(4 pi y) on the square [-1, 1]^2 solves Laplace(u) + u = q with values given on the
edges. A network of tanh layers is trained on two terms: the residual of the equation inside, and
the misfit on the edges.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

Tensor = torch.Tensor

WIDTH, DEPTH = 50, 3
POINTS = 128
"""Residual points, and points on each edge; drawn anew in every step."""
RATE, DECAY, DECAY_STEPS = 1e-3, 0.9, 1000
CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def solution(points: Tensor) -> Tensor:
    """The true u, one number a point."""
    return torch.sin(math.pi * points[..., 0]) * torch.sin(4 * math.pi * points[..., 1])


def source(points: Tensor) -> Tensor:
    """The right-hand side q, that makes `solution` the solution."""
    return (1.0 - math.pi**2 - (4 * math.pi) ** 2) * solution(points)


class Network(nn.Module):
    """Tanh layers on standardised inputs; Glorot normal weights, biases of zero."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [2] + [WIDTH] * DEPTH + [1]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        sample = inside(100_000, generator)
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("spread", sample.std(0))

    def forward(self, points: Tensor) -> Tensor:
        """u at the points."""
        hidden = (points - self.mean) / self.spread
        for layer in self.layers[:-1]:
            hidden = torch.tanh(layer(hidden))
        return self.layers[-1](hidden).squeeze(-1)

    def with_laplacian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """u and its Laplacian at the points, carried through the layers side by side.

        Besides the value, each layer passes on the two first derivatives and the sum of the second
        ones (Taylor mode): exact, one pass, and no derivative of a derivative for autograd.
        """
        value = (points - self.mean) / self.spread
        slopes = (torch.eye(2) / self.spread)[:, None, :].expand(2, len(points), 2)
        stack = torch.cat([value[None], slopes, torch.zeros_like(value)[None]])
        for layer in self.layers[:-1]:
            stack = stack @ layer.weight.T
            value, first, second = stack[0] + layer.bias, stack[1:3], stack[3]
            out = torch.tanh(value)
            rise = 1.0 - out * out
            bend = second - 2.0 * out * first.square().sum(0)
            stack = torch.cat([out[None], rise * first, (rise * bend)[None]])
        last = self.layers[-1]
        ends = (stack[::3] @ last.weight.T).squeeze(-1)
        return ends[0] + last.bias, ends[1]


def inside(count: int, generator: torch.Generator) -> Tensor:
    """Uniform points of the square."""
    return torch.rand(count, 2, generator=generator) * 2 - 1


def on_edges(count: int, generator: torch.Generator) -> Tensor:
    """Uniform points on each of the four edges."""
    along = torch.rand(4, count, 1, generator=generator)
    return CORNERS[:, None] + (CORNERS.roll(-1, 0) - CORNERS)[:, None] * along


def residuals(network: Network, generator: torch.Generator) -> dict[str, Tensor]:
    """What the equation and the edges leave over at fresh points; the edges' in four rows."""
    points = inside(POINTS, generator)
    value, laplacian = network.with_laplacian(points)
    edges = on_edges(POINTS, generator)
    return {
        "residual": laplacian + value - source(points),
        "boundary": network(edges) - solution(edges),
    }


def terms(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The two terms: the mean square of the residual, and those of the edges summed."""
    return {
        "residual": found["residual"].square().mean(),
        "boundary": found["boundary"].square().mean(1).sum(),
    }


def rate(iteration: int) -> float:
    """The learning rate of an iteration: a smooth exponential decay."""
    return RATE * DECAY ** (iteration / DECAY_STEPS)


def error(network: Network) -> float:
    """The relative L2 error of u on a grid of 100 x 100 points."""
    line = torch.linspace(-1.0, 1.0, 100)
    grid = torch.cartesian_prod(line, line)
    true = solution(grid)
    with torch.no_grad():
        return float((network(grid) - true).norm() / true.norm())
