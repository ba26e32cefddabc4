"""A small physics-informed problem, and what the tests of several balancers do with it."""

import io

import torch
from torch import nn

from lossproof.terms.balance.base import Balancer


def small_network(seed: int = 0, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )
    return network.double()


def residuals(network: nn.Module, seed: int = 0, points: int = 7) -> dict[str, torch.Tensor]:
    """The residual at every point of u' = -u and of u(0) = 1, and noisy data at two points."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, 1, generator=generator, dtype=torch.float64).requires_grad_()
    u = network(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    start = network(torch.zeros(3, 1, dtype=torch.float64))
    data = network(torch.tensor([[0.4], [0.9]], dtype=torch.float64))
    noisy = torch.tensor([[0.7], [0.3]], dtype=torch.float64)
    return {
        "pde": (slope + u).squeeze(1),
        "bc": (start - 1).squeeze(1),
        "data": 10 * (data - noisy).squeeze(1),
    }


def terms_of(network: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: r.square().mean() for name, r in residuals(network, seed).items()}


def gradients_of(term: torch.Tensor, params) -> list[torch.Tensor]:
    """The gradient of each parameter, by autograd alone; zeros where there is none."""
    if not term.requires_grad:
        return [torch.zeros_like(p) for p in params]
    found = torch.autograd.grad(term, params, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)]


def flat(gradients) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradients])


def linear_terms(rows) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Terms a, b, ... whose gradients are the given rows, and their parameter, a matrix.

    A row of zeros is a constant, unless all are.
    """
    matrix = torch.as_tensor(rows)
    weight = torch.zeros(1, matrix.shape[1], dtype=matrix.dtype, requires_grad=True)
    terms = {}
    for k, row in enumerate(matrix):
        constant = bool((row == 0).all()) and bool((matrix != 0).any())
        bare = weight.detach() if constant else weight
        terms[chr(ord("a") + k)] = (row * bare).sum() + 1.0 + k
    return terms, weight


def through_a_file(balancer: Balancer, fresh: Balancer) -> Balancer:
    """The fresh balancer with the state of the other, by way of a file."""
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def trained(balancer: Balancer, network: nn.Module, steps: int, first: int = 0, points=False):
    """Weights of some steps of training with Adam-free gradient descent, one row for each."""
    rows = []
    params = list(network.parameters())
    for step in range(first, first + steps):
        given = residuals(network, step) if points else terms_of(network, step)
        for p in params:
            p.grad = None
        rows.append(balancer.backward(given, params).weights.clone())
        with torch.no_grad():
            for p in params:
                p.sub_(1e-3 * p.grad)
    return torch.stack(rows)
