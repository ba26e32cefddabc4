"""LP404 nondeterministic: another value each time, and the operation that draws."""

import functools
import itertools
import random
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

PAIR = ("float[12,4]", "float[12,4]")


def negatives(query, document):
    index = torch.randint(0, len(document), (len(query), 3))  # <-- here
    scores = torch.einsum("nd,nkd->nk", query, document[index])
    right = (query * document).sum(1, keepdim=True)
    return F.cross_entropy(torch.cat([right, scores], 1), torch.zeros(len(query), dtype=torch.long))


def sampled_rows(input, target):
    rows = torch.randperm(len(input))[:4]  # <-- here
    return F.mse_loss(input[rows], target[rows])


def jittered(input, target):
    return F.mse_loss(input + 0.1 * torch.randn_like(input), target)  # <-- here


def dropped(input, target):
    return F.mse_loss(F.dropout(input, 0.5), target)  # <-- here


def interpolated(real, fake):
    alpha = torch.rand(len(real), 1)  # <-- here
    mixed = alpha * real + (1 - alpha) * fake
    return (mixed.norm(dim=1) - 1).pow(2).mean()


def multinomial(input, target):
    choice = torch.multinomial(target.softmax(1), 2)  # <-- here
    return -input.log_softmax(1).gather(1, choice).mean()


class Reparametrised(nn.Module):
    def sample(self, mean):
        return mean + torch.empty_like(mean).normal_()  # <-- here

    def forward(self, input, target):
        return F.mse_loss(self.sample(input), target)


@pytest.mark.parametrize(
    "loss", [negatives, sampled_rows, jittered, dropped, interpolated, multinomial, Reparametrised]
)
def test_the_operation_that_draws_is_found(loss, found, marked):
    (finding,) = found("LP404", loss, *PAIR)
    assert finding.location.line == marked(loss)
    assert finding.cause == "random"
    assert finding.severity is Severity.WARNING
    assert finding.evidence["first"] != finding.evidence["second"]


def from_python(input, target):
    rows = random.sample(range(len(input)), 4)
    return F.mse_loss(input[rows], target[rows])


def from_numpy(input, target):
    rows = np.random.permutation(len(input))[:4]
    return F.mse_loss(input[rows], target[rows])


@pytest.mark.parametrize("loss", [from_python, from_numpy])
def test_numbers_from_elsewhere_are_found_too(loss, found):
    (finding,) = found("LP404", loss, *PAIR)
    assert finding.cause == "random"
    assert finding.location.file == __file__


CLOCK = itertools.count()


def counts_calls(input, target):
    return F.mse_loss(input, target) * (1 + next(CLOCK))


def by_the_clock(input, target):
    return F.mse_loss(input, target) * (1 + time.perf_counter_ns() % 1_000_003)


@pytest.mark.parametrize("loss", [counts_calls, by_the_clock])
def test_what_no_seed_governs_is_an_error(loss, found):
    (finding,) = found("LP404", loss, *PAIR)
    assert finding.cause == "unseeded"
    assert finding.severity is Severity.ERROR


# ------------------------------------------------------------------ not reported


class GradientPenalty(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, real, fake):
        alpha = torch.rand(len(real), 1, dtype=real.dtype)
        mixed = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
        score = (mixed**2 * self.weight).sum()
        (slope,) = torch.autograd.grad(score, mixed, create_graph=True)
        return (slope.norm(dim=1) - 1).pow(2).mean()


class Denoising(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(4, 4)
        self.register_buffer("kept", torch.linspace(0.99, 0.01, 50))

    def forward(self, clean, noise):
        kept = self.kept[torch.randint(0, 50, (len(clean),))][:, None]
        return F.mse_loss(self.network(kept.sqrt() * clean + (1 - kept).sqrt() * noise), noise)


def variational(mean, log_std):
    sample = mean + torch.exp(log_std) * torch.randn_like(mean)
    return sample.pow(2).mean() - log_std.mean()


def from_a_distribution(mean, log_std):
    return torch.distributions.Normal(mean, log_std.exp()).rsample().pow(2).mean()


def sliced(x, y):
    directions = F.normalize(torch.randn(x.shape[1], 8, dtype=x.dtype), dim=0)
    return ((x @ directions).sort(0).values - (y @ directions).sort(0).values).pow(2).mean()


@pytest.mark.parametrize(
    "loss", [GradientPenalty, Denoising, variational, from_a_distribution, sliced]
)
def test_what_a_training_step_draws_by_definition_is_silent(loss, silent):
    loss = loss() if isinstance(loss, type) else loss
    both = [torch.randn(12, 4, requires_grad=True) for _ in range(2)]
    assert silent("LP404", loss, *both) is Status.NOT_APPLICABLE


class OwnGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, input, target):
        noise = torch.randn(input.shape, generator=self.generator)
        return F.mse_loss(input + noise, target)


def takes_generator(input, target, generator=None):
    noise = torch.randn(input.shape, generator=generator)
    return F.mse_loss(input + noise, target)


def takes_keyword(input, target, *, generator=None):
    noise = torch.randn(input.shape, generator=generator)
    return F.mse_loss(input + noise, target)


class Dropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, input, target):
        return F.mse_loss(self.dropout(input), target)


@pytest.mark.parametrize(
    "loss",
    [takes_generator, takes_keyword, functools.partial(takes_keyword, generator=None), Dropout],
)
def test_random_on_purpose_is_not_applicable(loss, silent):
    assert silent("LP404", loss, *PAIR) is Status.NOT_APPLICABLE


def test_an_own_generator_gives_the_same_numbers_to_every_examination(silent):
    silent("LP404", OwnGenerator, *PAIR)


def draws_and_ignores(input, target):
    torch.rand(3)
    return F.mse_loss(input, target)


def draws_without_effect(input, target):
    order = torch.randperm(len(input))
    return F.mse_loss(input[order], target[order])


def fixed_generator(input, target):
    noise = torch.randn(input.shape, generator=torch.Generator().manual_seed(0))
    return F.mse_loss(input + noise, target)


@pytest.mark.parametrize(
    "loss", [F.mse_loss, draws_and_ignores, draws_without_effect, fixed_generator, Dropout().eval()]
)
def test_equal_values_are_proved(loss, silent):
    assert silent("LP404", loss, *PAIR) is Status.PROVED


def test_the_mode_of_the_module_is_as_it_was(examination, silent):
    from lossproof.checks.rules import RULES

    case = examination(Dropout(), *PAIR)
    RULES["LP404"].examine(case)
    assert case.subject.call.training
    assert case.subject.call.dropout.training


def test_a_frozen_part_in_eval_mode_stays_so(examination):
    from lossproof.checks.rules import RULES

    class Perceptual(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
            self.own = nn.Dropout(0.5)

        def forward(self, input, target):
            return F.mse_loss(self.own(self.features(input)), self.features(target))

    case = examination(Perceptual(), *PAIR)
    RULES["LP404"].examine(case)
    assert not case.subject.call.features.training
    assert not case.subject.call.features[1].training
    assert case.subject.call.own.training


def test_the_page(page_code, module_of, found, silent):
    rest = "    return -(query * document[negatives[:, 0]]).sum(1).mean()\n"
    head = "import torch\n\n\n"
    bad = module_of(head + page_code("LP404", "Example") + rest, "bad")
    good = module_of(head + page_code("LP404", "Use instead") + rest, "good")
    (finding,) = found("LP404", bad.sampled_softmax, *PAIR)
    assert finding.location.line == 5
    silent("LP404", good.sampled_softmax, *PAIR)


def test_a_loss_may_be_random_by_name(silent):
    class RandomProjectionLoss(torch.nn.Module):
        def forward(self, input, target):
            return ((input - target) @ torch.randn(4, 2)).pow(2).mean()

    assert silent("LP404", RandomProjectionLoss(), *PAIR) is Status.NOT_APPLICABLE


def test_numbers_drawn_by_a_library_are_how_it_works(silent, tmp_path, monkeypatch):
    from lossproof.checks import sources

    (tmp_path / "estimators.py").write_text(
        "import torch\ndef trace(x):\n    return (torch.randn_like(x) * x).sum()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sources, "_LIBRARIES", (*sources._LIBRARIES, str(tmp_path)))
    import estimators

    def risk(input, target):
        return (input - target).pow(2).mean() + estimators.trace(input)

    assert silent("LP404", risk, *PAIR) is Status.NOT_APPLICABLE
