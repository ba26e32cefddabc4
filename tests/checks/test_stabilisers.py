"""Tiny constants: which operations count, and what a loss is without them."""

import pytest
import torch

from lossproof.checks.sources import Sources
from lossproof.checks.stabilisers import WithoutStabilisers, dead_gradient

X = torch.tensor([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + 1e-8,
        lambda x: 1e-8 + x,
        lambda x: x - 1e-12,
        lambda x: torch.add(x, 1e-7),
        lambda x: x.clamp(min=1e-7),
        lambda x: x.clamp_min(1e-6),
        lambda x: torch.clamp(x, 1e-7, 1 - 1e-7),
        lambda x: x.clip(1e-9, 1 - 1e-6),
    ],
)
def test_left_out(operation):
    with WithoutStabilisers(Sources()) as mode:
        result = operation(X)
    assert torch.equal(result, X)
    assert len(mode.sites) == 1


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + 1e-3,
        lambda x: x + 1,
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(0.0, 1.0),
        lambda x: x.clamp(-1 + 1e-7, 1 - 1e-7),
        lambda x: x * 1e-8,
        lambda x: x + x,
    ],
)
def test_kept(operation):
    with WithoutStabilisers(Sources()) as mode:
        result = operation(X)
    assert torch.equal(result, operation(X))
    assert not mode.sites


def test_only_one_is_left_out():
    with WithoutStabilisers(Sources(), only=1):
        result = (torch.zeros(1, dtype=torch.float64) + 1e-7) + 1e-9
    assert result.item() == 1e-7


def test_the_gradient_without_the_constant_is_that_of_the_logarithm(examination):
    def loss(x):
        return -torch.log(torch.sigmoid(x) + 1e-9).sum()

    case = examination(loss, torch.tensor([0.5, -1.0]))
    given = case.evaluate(dtype=torch.float64)
    found = dead_gradient(case, given)
    assert found.truth == pytest.approx(30.0)  # -log(sigmoid(-30)) and -log(sigmoid(30))
    assert found.alive == pytest.approx(1.0)
    assert found.gradient < 1e-3


def test_a_loss_without_constants_costs_one_call(examination, monkeypatch):
    case = examination(lambda x: (x**2).sum(), torch.tensor([0.5, -1.0]))
    given = case.evaluate(dtype=torch.float64)
    evaluate, calls = case.evaluate, []

    def counted(*arguments, **options):
        calls.append(options)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(case, "evaluate", counted)
    assert dead_gradient(case, given) is None
    assert len(calls) == 1
