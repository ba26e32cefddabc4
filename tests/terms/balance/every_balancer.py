"""Every balancer there is, found by walking the package, and a small problem to train on."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import lossproof.terms.balance
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.samples import SampledBalancer

Change = Callable[[torch.Tensor], torch.Tensor]

NAMES = ("data", "pde", "bc")
OF_OTHERS = ("FromTorchJD",)
"""What needs a library that need not be there, and is tested by itself."""


def _found() -> dict[str, type[Balancer]]:
    classes: dict[str, type[Balancer]] = {}
    for module in pkgutil.iter_modules(lossproof.terms.balance.__path__):
        members = importlib.import_module(f"lossproof.terms.balance.{module.name}")
        for name, member in vars(members).items():
            own = inspect.isclass(member) and member.__module__ == members.__name__
            if own and issubclass(member, Balancer) and not inspect.isabstract(member):
                if member.weights_of is not Balancer.weights_of and name not in OF_OTHERS:
                    classes[name] = member
    return classes


CLASSES = _found()
SPECIAL: Mapping[str, Callable[[Sequence[str]], Balancer]] = {
    "ScheduledWeights": lambda names: CLASSES["ScheduledWeights"](
        {name: (lambda step, k=k: 1.0 + k / (1 + step)) for k, name in enumerate(names)}
    ),
    "DWA": lambda names: CLASSES["DWA"](names, window=2),
    "FixedWeights": lambda names: CLASSES["FixedWeights"](
        {name: 1.0 + k for k, name in enumerate(names)}
    ),
    "ResidualAttention": lambda names: CLASSES["ResidualAttention"](
        dict.fromkeys(names[:2], 8), names=names
    ),
    "SelfAdaptivePoints": lambda names: CLASSES["SelfAdaptivePoints"](
        dict.fromkeys(names[:2], 8), names=names
    ),
    "CausalWeighting": lambda names: CLASSES["CausalWeighting"](names[:2], chunks=4, names=names),
}


def make(name: str, names: Sequence[str] = NAMES) -> Balancer:
    """A balancer of this class for these terms, with its defaults."""
    if name in SPECIAL:
        return SPECIAL[name](names)
    return CLASSES[name](names)


class Problem:
    """Three terms of a small net with a head each, in the form that the method wants them."""

    def __init__(self, balancer: Balancer, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(5, 1) for name in NAMES})
        self.model = nn.ModuleList([self.trunk, self.heads])
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        self.x = torch.randn(40, 8, 3, generator=generator)
        self.y = torch.randn(40, 8, len(NAMES), generator=generator)
        self.samples = balancer.samples if isinstance(balancer, SampledBalancer) else 0
        self.scalar = type(balancer).scalars is Balancer.scalars

    def terms(self, step: int, absent: Sequence[str] = ()) -> dict[str, Any]:
        hidden = self.trunk(self.x[step])
        found: dict[str, Any] = {}
        for k, name in enumerate(NAMES):
            residual = (10.0**k) * (self.heads[name](hidden)[:, 0] - self.y[step, :, k])
            if self.samples:
                found[name] = [part.square().mean() for part in residual.chunk(self.samples)]
            else:
                found[name] = residual.square().mean() if self.scalar else residual
        return {name: None if name in absent else term for name, term in found.items()}

    def changed(self, terms: dict[str, Any], name: str, change: Change) -> dict[str, Any]:
        """The terms, one of which is changed."""
        given = terms[name]
        changed = [change(one) for one in given] if self.samples else change(given)
        return {**terms, name: changed}

    def balanced(self, *names: str) -> tuple[str, ...]:
        """What is balanced where these terms are given."""
        if not self.samples:
            return names
        return tuple(f"{name}[{k}]" for name in names for k in range(self.samples))

    @property
    def flat(self) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])


def train(
    balancer: Balancer,
    problem: Problem,
    optimizer: torch.optim.Optimizer,
    steps: Sequence[int],
    **options: Any,
) -> torch.Tensor:
    """Some steps, and the weights of each."""
    weights = []
    for step in steps:
        optimizer.zero_grad()
        weights.append(balancer.backward(problem.terms(step), problem.model, **options).weights)
        optimizer.step()
    return torch.stack(weights)
