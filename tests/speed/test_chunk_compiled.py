"""Chunked losses whose loss is compiled together with its gradient."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.speed.chunk_cases import focal
from torch import nn
from torch.nn import functional as F

from lossproof.speed.chunking import chunk


def capped(logits, target, cap):
    logits = cap * torch.tanh(logits / cap)
    return torch.logsumexp(logits, 1) - logits.gather(1, target[:, None])[:, 0]


def setting(rows=50):
    torch.manual_seed(0)
    hidden = torch.randn(rows, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 9, (rows,))
    target[::7] = -100
    return hidden, target, nn.Linear(6, 9).double()


def assert_close(found, expected, leaves):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(found, leaves, retain_graph=True),
        torch.autograd.grad(expected, leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_a_compiled_loss_is_the_same():
    hidden, target, head = setting()
    cap = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ours = chunk(capped, head, ignore_index=-100, chunk_size=16, compile=True)
    leaves = [hidden, cap, *head.parameters()]
    rows = target != -100
    for count in (50, 43, 50):  # chunks of other sizes
        keep = rows[:count]
        expected = capped(head(hidden[:count][keep]), target[:count][keep], cap).mean()
        assert_close(ours(hidden[:count], target[:count], cap=cap), expected, leaves)
    again = copy.deepcopy(ours), pickle.loads(pickle.dumps(chunk(capped, head, compile=True)))
    assert again[0].compiles and again[1].compiles
    with torch.no_grad():
        torch.testing.assert_close(again[0](hidden, target, cap=cap), ours(hidden, target, cap=cap))


def test_second_derivatives_of_a_compiled_loss():
    hidden, target, head = setting()
    target = target.clamp(min=0)
    ours = chunk(focal, head, chunk_size=16, compile=True)
    found = []
    for function in (ours, lambda x, t: focal(head(x), t).mean()):
        value = function(hidden, target) * head.weight.square().sum()
        (slope,) = torch.autograd.grad(value, hidden, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [hidden, head.weight]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_torchs_cross_entropy_needs_no_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    hidden, target, head = setting()
    found = chunk(F.cross_entropy, head, chunk_size=16, compile=True)(hidden, target)
    assert_close(found, F.cross_entropy(head(hidden), target), [hidden, head.weight])


@pytest.mark.filterwarnings("ignore:the loss is drawn at random:RuntimeWarning")
def test_a_loss_that_draws_random_numbers_is_computed_uncompiled():
    hidden, target, head = setting()
    target = target.clamp(min=0)
    ours = chunk(
        lambda a, t: focal(F.dropout(a, 0.3), t),
        head,
        reduction="none",
        chunk_size=16,
        compile=True,
    )

    def total(at):
        torch.manual_seed(7)
        with pytest.warns(RuntimeWarning, match="draws random numbers.* uncompiled"):
            return ours(at, target).sum()

    along, step = torch.randn_like(hidden), 1e-6
    (slope,) = torch.autograd.grad(total(hidden), hidden)
    difference = (total(hidden + step * along) - total(hidden - step * along)) / (2 * step)
    torch.testing.assert_close((slope * along).sum(), difference.detach(), rtol=1e-7, atol=1e-8)


def test_a_loss_that_closes_over_a_parameter_is_computed_uncompiled():
    hidden, target, head = setting()
    target = target.clamp(min=0)
    temperature = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    ours = chunk(lambda a, t: focal(a * temperature, t), head, chunk_size=16, compile=True)
    with pytest.warns(RuntimeWarning, match="closes over parameters"):
        found = ours(hidden, target)
    assert_close(found, focal(head(hidden) * temperature, target).mean(), [hidden, temperature])
