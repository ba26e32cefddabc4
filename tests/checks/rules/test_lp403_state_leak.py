"""LP403 state-leak: what a call leaves behind that changes or breaks the next one."""

import collections
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

PAIR = ("float[6,4]", "float[6,4]")
CLASSES = ("float[6,4]", "int[6]<4")
HISTORY = []
SCALE = {"value": 1.0}


class RunningTotal(nn.Module):
    def __init__(self):
        super().__init__()
        self.total = 0.0

    def forward(self, input, target):
        loss = F.mse_loss(input, target)
        self.total = self.total + loss  # <-- here
        return loss


class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, input, target):
        self.mean = 0.9 * self.mean + 0.1 * input.mean(0)  # <-- here
        return ((input - self.mean - target) ** 2).mean()


class ListOfLosses(nn.Module):
    def __init__(self):
        super().__init__()
        self.losses = []

    def forward(self, input, target):
        loss = F.mse_loss(input, target)
        self.losses.append(loss)  # <-- here
        return loss


def global_history(input, target):
    loss = F.mse_loss(input, target)
    HISTORY.append(loss)  # <-- here
    return loss


def default_list(input, target, seen=[]):  # noqa: B006
    seen.append(F.mse_loss(input, target))  # <-- here
    return torch.stack(seen).sum()


class Smoothed(nn.Module):
    """Keeps a graph through an object of its own."""

    def __init__(self):
        super().__init__()
        self.average = collections.deque(maxlen=100)

    def forward(self, input, target):
        self.average.append(F.mse_loss(input, target))  # <-- here
        return sum(self.average) / len(self.average)


@pytest.mark.parametrize(
    "loss", [RunningTotal, RunningMean, ListOfLosses, global_history, default_list, Smoothed]
)
def test_a_graph_that_is_kept_is_found(loss, found, marked):
    (finding,) = found("LP403", loss, *PAIR)
    assert finding.cause == "graph-kept"
    assert finding.location.line == marked(loss)
    assert "detach" in finding.help


class WeightGathered(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = torch.tensor([0.1, 0.2, 0.3, 0.4])

    def forward(self, logits, target):
        self.alpha = self.alpha[target]  # <-- here
        return (self.alpha * F.cross_entropy(logits, target, reduction="none")).mean()


class Shrinking(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("margin", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, logits, target):
        self.margin = self.margin[:-1]  # <-- here
        return (F.relu(1 - logits[:, : len(self.margin) + 1]) * 1.0 / len(self.margin)).mean()


@pytest.mark.parametrize("loss", [WeightGathered, Shrinking])
def test_a_setting_that_changes_shape_is_found(loss, found, marked):
    (finding,) = found("LP403", loss, *CLASSES)
    assert finding.location.line == marked(loss)


class Decaying(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        self.gamma = self.gamma * 0.5  # <-- here
        return (input - target).abs().pow(self.gamma).mean()


def global_scale(input, target):
    SCALE["value"] *= 0.5  # <-- here
    return SCALE["value"] * F.mse_loss(input, target)


def default_options(input, target, options={"step": 1.0}):  # noqa: B006
    options["step"] += 1.0  # <-- here
    return options["step"] * F.mse_loss(input, target)


@pytest.mark.parametrize("loss", [Decaying, global_scale, default_options])
def test_an_option_that_is_overwritten_is_found(loss, found, marked):
    (finding,) = found("LP403", loss, *PAIR)
    assert finding.cause == "overwritten"
    assert finding.severity is Severity.WARNING
    assert finding.evidence["first"] != finding.evidence["second"]
    assert finding.location.line == marked(loss)


def seeded(input, target):
    torch.manual_seed(0)  # <-- here
    return F.mse_loss(input + 0.01 * torch.randn_like(input), target)


def seeded_python(input, target):
    random.seed(1234)  # <-- here
    return F.mse_loss(input, target) * random.random()


def seeded_numpy(input, target):
    np.random.seed(7)  # <-- here
    rows = np.random.choice(6, 3, replace=False)
    return F.mse_loss(input[rows], target[rows])


@pytest.mark.parametrize("loss", [seeded, seeded_python, seeded_numpy])
def test_a_global_seed_is_found(loss, found, marked):
    before = torch.get_rng_state(), random.getstate()
    (finding,) = found("LP403", loss, *PAIR)
    assert finding.cause == "global-seed"
    assert finding.location.line == marked(loss)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def default_dtype(input, target):
    torch.set_default_dtype(torch.float64)  # <-- here
    return F.mse_loss(input, target)


def gradients_off(input, target):
    loss = F.mse_loss(input, target)
    torch.set_grad_enabled(False)  # <-- here
    return loss


def deterministic(input, target):
    torch.use_deterministic_algorithms(True)  # <-- here
    return F.mse_loss(input, target)


def anomaly(input, target):
    torch.autograd.set_detect_anomaly(True)  # <-- here
    return F.mse_loss(input, target)


@pytest.mark.parametrize("loss", [default_dtype, gradients_off, deterministic, anomaly])
def test_a_process_wide_setting_is_found(loss, found, marked):
    (finding,) = found("LP403", loss, *PAIR)
    assert finding.cause == "global-setting"
    assert finding.location.line == marked(loss)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32


def test_a_second_backward_that_fails_is_an_error(found):
    class Exponential(RunningMean):
        def forward(self, input, target):
            self.mean = 0.9 * self.mean + 0.1 * input.exp().mean(0)
            return ((input - self.mean - target) ** 2).mean()

    (finding,) = found("LP403", Exponential, *PAIR)
    assert finding.severity is Severity.ERROR
    assert "second backward" in finding.notes[0]


# ------------------------------------------------------------------ not reported


class Average(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, input, target):
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * input.mean(0)
        return ((input - self.mean - target) ** 2).mean()


class InPlaceAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    @torch.no_grad()
    def update(self, input):
        self.mean.mul_(0.9).add_(input.mean(0), alpha=0.1)

    def forward(self, input, target):
        self.update(input)
        return ((input - self.mean - target) ** 2).mean()


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.history = []

    def forward(self, input, target):
        self.calls += 1
        loss = F.mse_loss(input, target)
        self.history.append(loss.item())
        return loss * min(1.0, self.calls / 10)


class Queue(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("queue", F.normalize(torch.ones(8, 4), dim=1))
        self.pointer = 0

    def forward(self, input, target):
        loss = F.cross_entropy(input @ self.queue.clone().T, torch.arange(len(input)))
        with torch.no_grad():
            self.queue[self.pointer : self.pointer + 2] = F.normalize(target[:2], dim=1)
        self.pointer = (self.pointer + 2) % 8
        return loss


class LastLoss(nn.Module):
    def forward(self, input, target):
        self.last = F.mse_loss(input, target)
        return self.last


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, input, target):
        if input.shape not in self.cache:
            self.cache[input.shape] = torch.linspace(0, 1, input.shape[1])
        return ((input - target) ** 2 * self.cache[input.shape]).mean()


class BatchNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, input, target):
        return F.mse_loss(self.norm(input), target)


class OwnGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, input, target):
        noise = torch.randn(input.shape, generator=self.generator)
        return F.mse_loss(input + 0.01 * noise, target)


def draws(input, target):
    return F.mse_loss(input + 0.01 * torch.randn_like(input), target)


def settings_for_a_block(input, target):
    with torch.no_grad(), torch.autograd.set_detect_anomaly(False):
        weight = target.abs()
    return (weight * (input - target) ** 2).mean()


@pytest.mark.parametrize(
    "loss",
    [F.mse_loss, Average, InPlaceAverage, Counter, Queue, LastLoss, Cached, BatchNormed,
     OwnGenerator, draws, settings_for_a_block],
)  # fmt: skip
def test_state_on_purpose_is_silent(loss, silent):
    assert silent("LP403", loss, *PAIR) is Status.PROVED


def test_the_globals_of_this_file_are_as_they_were():
    assert HISTORY == []
    assert SCALE == {"value": 1.0}


def test_the_page(page_code, module_of, found, silent):
    head = (
        "import torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
        "class Loss(nn.Module):\n    total = 0.0\n\n"
    )

    def body(code):
        return head + "".join(f"    {line}\n" for line in code.splitlines())

    example = page_code("LP403", "Example")
    lines = example.splitlines()
    bad = module_of(body(example), "bad")
    good = module_of(
        body("\n".join([*lines[:2], page_code("LP403", "Use instead").rstrip(), lines[-1]])), "good"
    )
    (finding,) = found("LP403", bad.Loss, *PAIR)
    assert finding.location.line == 10
    silent("LP403", good.Loss, *PAIR)
