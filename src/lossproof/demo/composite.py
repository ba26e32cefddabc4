"""Story 5: a composite loss, its terms weighed by the gradient of each."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lossproof.checks.chart import LineChart, Series
from lossproof.demo.story import Claim, Outline, Part, Pictures, code_of, table
from lossproof.terms import (
    BalanceStep,
    FixedWeights,
    LearningRateAnnealing,
    TermGradients,
    term_gradients,
)
from lossproof.terms.balance.base import Balancer

SEED = 0
POINTS = 64
"""Points inside the interval; new ones in every step."""
STEPS, EVERY = 1500, 25
"""Steps of a training, and how often what is drawn is measured."""
WAVES = 4 * math.pi


# ---------------------------------------------------------------------------- the problem
def solution(x: Tensor) -> Tensor:
    """The u that is to be found: u'' = -(4 pi)^2 sin(4 pi x), u(0) = 0, u'(1) = 4 pi + 1."""
    return torch.sin(WAVES * x) + x


class Network(nn.Module):
    """Two layers of 32 tanh; the interval is brought to a spread of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(1, 32), nn.Linear(32, 32)]
        self.last = nn.Linear(32, 1)
        self.layers = nn.ModuleList([*self.hidden, self.last])
        for layer in (*self.hidden, self.last):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The value of u and its first two derivatives, through the layers by the chain rule."""
        value = math.sqrt(12) * (x - 0.5)
        first, second = torch.full_like(x, math.sqrt(12)), torch.zeros_like(x)
        for layer in self.hidden:
            value, first, second = layer(value), first @ layer.weight.T, second @ layer.weight.T
            value = torch.tanh(value)
            rise = 1 - value.square()
            second = rise * (second - 2 * value * first.square())
            first = rise * first
        weight = self.last.weight.T
        return self.last(value), first @ weight, second @ weight


def terms(network: Network) -> dict[str, Tensor]:
    """The residual of the equation inside, and the misfit at either end."""
    inside = torch.rand(POINTS, 1)
    _, _, bend = network(inside)
    ends = torch.tensor([[0.0], [1.0]])
    value, slope, _ = network(ends)
    return {
        "residual": (bend + WAVES**2 * torch.sin(WAVES * inside)).square().mean(),
        "dirichlet": value[0, 0].square(),
        "neumann": (slope[1, 0] - (WAVES + 1)).square(),
    }


def error(network: Network) -> float:
    """The error of u over the whole interval, relative to u."""
    grid = torch.linspace(0, 1, 201).unsqueeze(1)
    with torch.no_grad():
        wrong = network(grid)[0] - solution(grid)
    return float(wrong.norm() / solution(grid).norm())


# ---------------------------------------------------------------------------- the training
@dataclass
class Run:
    """What was measured in a training, every few steps."""

    network: Network
    steps: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    weights: list[Mapping[str, float]] = field(default_factory=list)
    norms: list[Mapping[str, float]] = field(default_factory=list)

    def note(self, step: int, done: BalanceStep, found: TermGradients) -> None:
        """Keep the figures of a step."""
        self.steps.append(float(step))
        self.errors.append(error(self.network))
        self.weights.append({name: one.item() for name, one in done.weight.items()})
        self.norms.append({name: found.norm[name].item() for name in found.names})


def train(balancer: Balancer) -> Run:
    """Train a network; the balancer weighs the terms, and sends them backward."""
    torch.manual_seed(SEED)
    run = Run(Network())
    optimizer = torch.optim.Adam(run.network.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        found = terms(run.network)
        looked = term_gradients(found, run.network) if step % EVERY == 0 else None
        done = balancer.backward(found, run.network)
        if looked:
            run.note(step, done, looked)
        optimizer.step()
        scheduler.step()
    return run


# ---------------------------------------------------------------------------- the story
def one_forward() -> Part:
    """The gradient of each term, from one forward."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        network = Network()
        named = terms(network)
    found = term_gradients(named, network)
    truth = one_pass_each(named, network)
    figures = ("mean", "mean_abs", "max_abs", "norm")
    rows = [
        (name, value.item(), *(f"{getattr(found, one)[name].item():.3g}" for one in figures))
        for name, value in named.items()
    ]
    agree = all(math.isclose(found.norm[k].item(), truth[k], rel_tol=1e-5) for k in truth)
    return Part(
        "The gradient of each term, from one forward",
        (
            "A network is to solve u'' = f on an interval, with the value given at one end and the "
            "slope at the other: three terms of one loss.",
            code_of(terms),
            "`lossproof.term_gradients(terms, network)`, before the first step:",
            table(("term", "value", "mean", "mean |.|", "max |.|", "norm"), *rows),
            f"The gradient of the residual is {truth['residual'] / truth['dirichlet']:.0f} times "
            "that of the value at the end, without which any straight line may be added to u.",
        ),
        (
            Claim("the norms are those of one backward pass for each term", agree),
            Claim(
                "the gradient of the residual is the largest",
                max(truth, key=lambda name: truth[name]) == "residual",
            ),
        ),
    )


def one_pass_each(named: Mapping[str, Tensor], network: nn.Module) -> dict[str, float]:
    """The norm of the gradient of each term, by a backward pass for each."""
    norms = {}
    for name, term in named.items():
        parts = torch.autograd.grad(
            term, list(network.parameters()), retain_graph=True, materialize_grads=True
        )
        norms[name] = torch.cat([part.flatten() for part in parts]).norm().item()
    return norms


def what_it_costs() -> Part:
    """What it costs to look."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        small, wide = Network(), Heads()
        cases = {
            "this network, 3 terms": (small, terms(small)),
            "8 heads on a trunk 1024 wide": (wide, wide.terms()),
        }
    rows, agree = [], []
    for what, (network, named) in cases.items():
        found, truth = term_gradients(named, network, want="norm"), one_pass_each(named, network)
        agree += [math.isclose(found.norm[k].item(), truth[k], rel_tol=1e-4) for k in truth]
        rows.append((what, *(f"{1e3 * taken:.3g} ms" for taken in times(named, network))))
    return Part(
        "What it costs to look",
        (
            "Where terms share wide layers, their norms follow from what flows through these, and "
            "no gradient is made. A network as small as this one gains nothing; there a balancer "
            "looks in every tenth step.",
            table(("", "all at once", "a pass for each", "one plain pass"), *rows),
        ),
        (Claim("the norms are the same either way", all(agree)),),
    )


class Heads(nn.Module):
    """Eight heads on one wide trunk."""

    def __init__(self) -> None:
        super().__init__()
        layers = [module for _ in range(3) for module in (nn.Linear(1024, 1024), nn.Tanh())]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(1024, 1) for _ in range(8))

    def terms(self) -> dict[str, Tensor]:
        """One term for each head, of 64 samples."""
        hidden = self.trunk(torch.randn(64, 1024))
        return {f"{k}": (head(hidden) - k).square().mean() for k, head in enumerate(self.heads)}


def times(named: Mapping[str, Tensor], network: nn.Module) -> list[float]:
    """The median seconds of three ways that take turns: at once, one by one, the sum alone."""
    parameters, total = list(network.parameters()), torch.stack(list(named.values())).sum()
    ways: tuple[Callable[[], object], ...] = (
        lambda: term_gradients(named, network, want="norm"),
        lambda: one_pass_each(named, network),
        lambda: torch.autograd.grad(total, parameters, retain_graph=True),
    )
    taken: list[list[float]] = [[], [], []]
    for _ in range(5):
        for seconds, way in zip(taken, ways, strict=True):
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in taken]


def fixed_or_balanced() -> Part:
    """Weights from these gradients."""
    with torch.random.fork_rng(devices=()):
        runs = {
            "fixed": train(FixedWeights()),
            "balanced": train(LearningRateAnnealing(reference="residual", every=10)),
        }
    ends = {name: statistics.median(run.errors[-8:]) for name, run in runs.items()}
    last = runs["balanced"].weights[-1]
    rows = [
        (f"{fixed_step:.0f}", *(f"{run.errors[k]:.3g}" for run in runs.values()))
        for k, fixed_step in enumerate(runs["fixed"].steps)
        if k % 12 == 0 or k == len(runs["fixed"].steps) - 1
    ]
    return Part(
        "Weights from these gradients",
        (
            f"The same network, trained for {STEPS} steps: with the weight 1 for each term, and "
            "with learning-rate annealing, which looks at the gradients in every tenth step. "
            "`balancer.backward(terms, network)` stands where `loss.backward()` stood.",
            code_of(train),
            "The relative error of u on the way:",
            table(("step", *runs), *rows),
            "The weights at the end: "
            + ", ".join(f"{name} {weight:.3g}" for name, weight in last.items())
            + ". This is one problem and one seed: weights that were tuned by hand are hard to "
            "beat, and which balancer is best differs from problem to problem.",
            Pictures(tuple(charts(runs))),
        ),
        (
            Claim(
                f"balanced, the error ends at {ends['balanced']:.2g}; with fixed weights, at "
                f"{ends['fixed']:.2g}",
                ends["balanced"] < 0.5 * ends["fixed"],
            ),
            Claim(
                "the weights of both ends grew from their gradients alone",
                last["residual"] == 1 and min(last["dirichlet"], last["neumann"]) > 3,
            ),
        ),
    )


def charts(runs: Mapping[str, Run]) -> list[LineChart]:
    """The error, the weights, and the gradients without and with them."""
    fixed, balanced = runs["fixed"], runs["balanced"]
    return [
        LineChart(
            "Error of the solution",
            "step",
            "relative error of u",
            tuple(Series(name, tuple(run.steps), tuple(run.errors)) for name, run in runs.items()),
            "The same network and points, and the same step size.",
            y_scale="log",
        ),
        over_steps(
            "The weights, balanced", "weight", balanced, balanced.weights,
            "The residual keeps its 1; the others follow their gradients.",
        ),
        over_steps(
            "The gradients with fixed weights", "norm", fixed, fixed.norms,
            "Each term has the weight 1.",
        ),
        over_steps(
            "The weighted gradients, balanced", "norm", balanced, weighted(balanced),
            "Each term times its weight, which is what trains.",
        ),
    ]  # fmt: skip


def weighted(run: Run) -> list[dict[str, float]]:
    """The norm of each term's gradient times its weight."""
    pairs = zip(run.norms, run.weights, strict=True)
    return [{name: norms[name] * abs(weights[name]) for name in norms} for norms, weights in pairs]


def over_steps(
    title: str, what: str, run: Run, rows: list[Mapping[str, float]] | list[dict[str, float]],
    caption: str,
) -> LineChart:  # fmt: skip
    """One curve for each term."""
    series = tuple(
        Series(name, tuple(run.steps), tuple(row[name] for row in rows)) for name in rows[0]
    )
    return LineChart(title, "step", what, series, caption, y_scale="log")


OUTLINE = Outline(
    "a composite loss",
    "A loss of several terms",
    "My loss is residual + alpha * Dirichlet + beta * Neumann. Can alpha and beta follow from the "
    "gradient of each term, without a forward pass for each?",
    "Yes: one forward gives the mean, the largest magnitude and the norm of every term's gradient, "
    "and a balancer makes the weights of them and sends the sum backward.",
    (one_forward, what_it_costs, fixed_or_balanced),
)
