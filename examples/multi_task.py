"""One network for three tasks, and what it is worth to balance their losses.

From the upper half of a handwritten digit a small network tells which digit it is, whether it is
even, and what the lower half looks like. The three losses have very different sizes. Balancers are
set side by side with the plain sum, with fixed weights that were tuned on validation sets, and with
a network of its own for each task; every figure is of a test set, over several seeds.

With five seeds, ConFIG and IMTL-G are surely better than the plain sum and MGDA is surely worse,
but none is surely better than the tuned weights. Those took trainings with twelve settings.

    python examples/multi_task.py                          # a minute or two on one core
    python examples/multi_task.py --picture multi_task.png
    python examples/multi_task.py --seeds 10
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.config import ConFIG
from lossproof.terms.balance.dwa import DWA
from lossproof.terms.balance.fixed import FixedWeights
from lossproof.terms.balance.gradnorm import GradNorm
from lossproof.terms.balance.imtl import IMTLG
from lossproof.terms.balance.mgda import MGDA
from lossproof.terms.balance.pcgrad import PCGrad
from lossproof.terms.balance.uncertainty import UncertaintyWeights
from lossproof.terms.balance.upgrad import UPGrad

TASKS = ("digit", "even", "lower half")
BATCH = 100


@dataclass(frozen=True)
class Part:
    """Some of the digits: upper halves, and what is to be told of them."""

    upper: Tensor
    digit: Tensor
    lower: Tensor

    def __len__(self) -> int:
        return len(self.upper)

    def at(self, rows: Tensor) -> Part:
        """Some of these."""
        return Part(self.upper[rows], self.digit[rows], self.lower[rows])


def data(seed: int) -> tuple[Part, Part, Part]:
    """The 1797 digits that come with scikit-learn, in random parts to train, validate and test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
    everything = Part(pixels[:, :32], torch.tensor(digits.target), pixels[:, 32:])
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
    train, validation, test = order.split([600, 400, 797])
    return everything.at(train), everything.at(validation), everything.at(test)


class Network(nn.Module):
    """A narrow trunk that the tasks share, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.heads = nn.ModuleDict(
            {task: nn.Linear(16, size) for task, size in zip(TASKS, (10, 1, 32), strict=True)}
        )

    def forward(self, upper: Tensor) -> dict[str, Tensor]:
        """What each head says."""
        features = self.trunk(upper)
        return {task: head(features) for task, head in self.heads.items()}


def terms(network: Network, part: Part) -> dict[str, Tensor]:
    """The loss of each task."""
    found = network(part.upper)
    even = (part.digit % 2 == 0).float()
    return {
        "digit": functional.cross_entropy(found["digit"], part.digit),
        "even": functional.binary_cross_entropy_with_logits(found["even"].squeeze(1), even),
        "lower half": functional.mse_loss(found["lower half"], part.lower),
    }


def errors(network: Network, part: Part) -> dict[str, float]:
    """What is wrong, in percent: of the digits, of the answers, of the variance of the pixels."""
    with torch.no_grad():
        found = network(part.upper)
    digit = found["digit"].argmax(1) != part.digit
    even = (found["even"].squeeze(1) > 0) != (part.digit % 2 == 0)
    spread = (part.lower - part.lower.mean(0)).square().mean()
    unexplained = (found["lower half"] - part.lower).square().mean() / spread
    wrong = (digit.float().mean(), even.float().mean(), unexplained)
    return {task: 100 * one.item() for task, one in zip(TASKS, wrong, strict=True)}


def train(
    balancer: Balancer, seed: int, epochs: int, only: str | None = None
) -> tuple[Network, float]:
    """Train a network; returns it and the milliseconds of a step.

    Args:
        balancer: what weighs the terms. It may have parameters to learn, too.
        seed: of the data, the first weights and the order of the batches.
        epochs: how often the training set is gone through.
        only: train this task alone.
    """
    part, _, _ = data(seed)
    torch.manual_seed(seed)
    network = Network()
    parameters = [*network.parameters(), *balancer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    count, start = 0, time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(part)).split(BATCH):
            optimizer.zero_grad()
            found = terms(network, part.at(rows))
            if only is not None:
                found = {only: found[only]}
            balancer.backward(found, network, on="shared" if len(found) > 1 else None)
            optimizer.step()
            count += 1
    return network, 1e3 * (time.perf_counter() - start) / count


def relative(found: Mapping[str, float], alone: Mapping[str, float]) -> float:
    """How much larger the errors are than those of single tasks, the mean over tasks in percent."""
    return 100 * statistics.mean(found[task] / alone[task] - 1 for task in TASKS)


def tuned(alone: list[dict[str, float]], epochs: int) -> dict[str, float]:
    """Fixed weights that were tried out: the best of twelve on the validation sets.

    Args:
        alone: the errors of single tasks there, for each seed to try with.
        epochs: of each training.
    """
    tried = [
        dict(zip(TASKS, (1.0, *pair), strict=True))
        for pair in itertools.product((0.3, 1.0, 3.0), (1.0, 10.0, 30.0, 100.0))
    ]

    def judged(weights: Mapping[str, float]) -> float:
        return statistics.mean(
            relative(errors(train(FixedWeights(weights), seed, epochs)[0], data(seed)[1]), single)
            for seed, single in enumerate(alone)
        )

    return min(tried, key=judged)


def methods(weights: Mapping[str, float]) -> dict[str, Callable[[], Balancer]]:
    """What is compared; every seed gets a new balancer."""
    return {
        "plain sum": FixedWeights,
        "tuned weights": lambda: FixedWeights(weights),
        "uncertainty": lambda: UncertaintyWeights(
            TASKS,
            form=dict(zip(TASKS, ("classification", "classification", "regression"), strict=True)),
        ),
        "DWA": lambda: DWA(window=6),  # an epoch
        "GradNorm": GradNorm,
        "MGDA": MGDA,
        "PCGrad": PCGrad,
        "UPGrad": UPGrad,
        "ConFIG": ConFIG,
        "IMTL-G": IMTLG,
    }


@dataclass
class Outcome:
    """The errors of a method with each seed, those relative to single tasks, and its speed."""

    errors: list[dict[str, float]]
    relative: list[float]
    milliseconds: float


def compare(seeds: int, epochs: int) -> dict[str, Outcome]:
    """Train with every method and every seed."""
    networks = [
        {task: train(FixedWeights(), seed, epochs, task)[0] for task in TASKS}
        for seed in range(seeds)
    ]
    on_validation, alone = (
        [
            {task: errors(network, data(seed)[part])[task] for task, network in found.items()}
            for seed, found in enumerate(networks)
        ]
        for part in (1, 2)
    )
    weights = tuned(on_validation[:2], epochs)
    print(f"The tuned weights, the best of twelve: {weights}\n")
    found = {"single tasks": Outcome(alone, [0.0] * seeds, math.nan)}
    for name, method in methods(weights).items():
        runs = [train(method(), seed, epochs) for seed in range(seeds)]
        wrong = [errors(network, data(seed)[2]) for seed, (network, _) in enumerate(runs)]
        change = [relative(one, single) for one, single in zip(wrong, alone, strict=True)]
        found[name] = Outcome(wrong, change, statistics.median(ms for _, ms in runs))
    return found


def spread(numbers: list[float]) -> str:
    """The mean, and the standard deviation over the seeds."""
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.mean(numbers):6.1f} ± {deviation:4.1f}"


def print_outcomes(outcomes: Mapping[str, Outcome]) -> None:
    """The errors on the test set, and who is better than whom beyond chance."""
    print("Errors on the test set in percent (digits, answers, variance); mean ± deviation:")
    print(
        f"{'':>13}  "
        + "  ".join(f"{task:>13}" for task in TASKS)
        + f"  {'to single':>13}  ms a step"
    )
    for name, outcome in outcomes.items():
        cells = [spread([one[task] for one in outcome.errors]) for task in TASKS]
        cells.append(spread(outcome.relative))
        speed = "" if math.isnan(outcome.milliseconds) else f"{outcome.milliseconds:.1f}"
        print(f"{name:>13}  " + "  ".join(cells) + f"  {speed}".rstrip())
    print()
    balancers = [name for name in outcomes if name not in {"single tasks", "plain sum"}]
    for rival in ("plain sum", "tuned weights"):
        others = [name for name in balancers if name != rival]
        better = [name for name in others if surely_better(outcomes[name], outcomes[rival])]
        worse = [name for name in others if surely_better(outcomes[rival], outcomes[name])]
        print(f"surely better than the {rival}: {', '.join(better) or 'none'}")
        print(f"surely worse than the {rival}: {', '.join(worse) or 'none'}")


def surely_better(one: Outcome, other: Outcome) -> bool:
    """Whether the mean difference over the seeds is more than twice its standard error."""
    differences = [b - a for a, b in zip(one.relative, other.relative, strict=True)]
    if len(differences) < 2:
        return False
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences) > 2 * error


def draw(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """A panel for each task, and one for all: a dot for each seed, a bar at the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    names = list(outcomes)
    columns = {f"{task}: error in %": [[one[task] for one in o.errors] for o in outcomes.values()]
               for task in TASKS}  # fmt: skip
    columns["all, to single tasks, in %"] = [outcome.relative for outcome in outcomes.values()]
    for axes, (title, rows) in zip(panels, columns.items(), strict=True):
        for row, numbers in enumerate(rows):
            axes.plot(numbers, [row] * len(numbers), "o", color="#0072b2", alpha=0.4, markersize=4)
            axes.plot([statistics.mean(numbers)], [row], "|", color="#d55e00", markersize=16,
                      markeredgewidth=2.5)  # fmt: skip
        axes.set_title(title, fontsize="medium")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train, compare, and draw."""
    parser = argparse.ArgumentParser(description="Three tasks, and balancers side by side.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="draw the errors to this file")
    parser.add_argument("--epochs", type=int, default=80)
    given = parser.parse_args()
    outcomes = compare(given.seeds, given.epochs)
    print_outcomes(outcomes)
    if given.picture is not None:
        draw(outcomes, given.picture)
        print(f"\ndrawn to {given.picture}")


if __name__ == "__main__":
    main()
