"""Half precision, random numbers and memory of chunked losses."""

from __future__ import annotations

import warnings

import pytest
import torch
from tests.speed.chunk_cases import focal
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.chunking import chunk


def setting(rows=256, width=32, classes=600, dtype=torch.float32):
    torch.manual_seed(0)
    head = nn.Linear(width, classes)
    hidden = torch.randn(rows, width)
    target = torch.randint(0, classes, (rows,))
    target[::7] = -100
    return head.to(dtype), hidden.to(dtype).requires_grad_(), target


def reference(head, hidden, target):
    """Gradients in float64 of what was rounded."""
    wide = hidden.detach().double().requires_grad_()
    weight = head.weight.detach().double().requires_grad_()
    logits = F.linear(wide, weight, head.bias.detach().double())
    return torch.autograd.grad(F.cross_entropy(logits, target), [wide, weight])


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("loss", [F.cross_entropy, focal])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backward_outside_of_autocast(loss, dtype, reduction):
    head, hidden, target = setting()
    options = {"ignore_index": -100} if loss is focal else {}
    ours = chunk(loss, head, reduction=reduction, chunk_size=64, **options)
    with torch.autocast("cpu", dtype=dtype):
        found = ours(hidden, target)
        rows = target != -100
        expected = loss(head(hidden[rows]).float(), target[rows])
    expected = expected.mean()
    found = found.sum() / rows.sum() if reduction == "none" else found
    assert found.dtype == torch.float32
    assert error(found.detach(), expected.detach()) < 1e-3
    leaves = [hidden, *head.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert one.dtype == torch.float32
        assert error(one, other.double()) < 2e-2


@pytest.mark.parametrize("scale", [1024.0, 65536.0])
def test_float16_with_a_loss_scale_loses_nothing(scale):
    head, hidden, target = setting(rows=512, classes=2000, dtype=torch.float16)
    found = chunk(F.cross_entropy, head, chunk_size=128)(hidden, target)
    ours = torch.autograd.grad(found * scale, [hidden, head.weight])
    eager = F.cross_entropy(F.linear(hidden, head.weight, head.bias).float(), target)
    (kept,) = torch.autograd.grad(eager * scale, head.weight)
    for one, expected in zip(ours, reference(head, hidden, target), strict=True):
        assert one.dtype == torch.float16
        assert error(one.double() / scale, expected) < 5e-4
    assert not ((ours[1] == 0) & (kept != 0)).any()


def test_the_error_of_bfloat16_does_not_grow_with_the_number_of_chunks():
    head, hidden, target = setting(rows=512, dtype=torch.bfloat16)
    _, expected = reference(head, hidden, target)
    errors = []
    for rows in (512, 8):
        found = chunk(F.cross_entropy, head, chunk_size=rows)(hidden, target)
        errors.append(error(torch.autograd.grad(found, head.weight)[0], expected))
    assert errors[1] < 1.2 * errors[0] < 5e-3


def noisy(logits, target):
    return F.cross_entropy(F.dropout(logits, 0.5), target, reduction="none", ignore_index=-100)


@pytest.mark.filterwarnings("ignore:the loss is drawn at random")
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("where", ["head", "loss"])
def test_backward_sees_the_masks_of_forward(where, reduction):
    torch.manual_seed(0)
    linear = nn.Linear(6, 9).double()
    head = nn.Sequential(nn.Dropout(0.5), linear) if where == "head" else linear
    loss = F.cross_entropy if where == "head" else noisy
    ours = chunk(loss, head, reduction=reduction, chunk_size=16, ignore_index=-100)
    hidden = torch.randn(40, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 9, (40,))

    def value(x):
        torch.manual_seed(5)
        return ours(x, target).sum()

    found = value(hidden)
    after = torch.get_rng_state()
    torch.manual_seed(77)  # what is drawn between forward and backward does not matter
    state = torch.get_rng_state()
    slopes = [torch.autograd.grad(found, hidden, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    direction = torch.randn_like(hidden)
    difference = (value(hidden + 1e-6 * direction) - value(hidden - 1e-6 * direction)) / 2e-6
    assert torch.equal(torch.get_rng_state(), after)
    for slope in slopes:
        torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-6, atol=1e-8)


def peak_of(step):
    """The most bytes that were alive at a time, above what was at the start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            step()
    alive = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


@pytest.mark.parametrize("loss", [F.cross_entropy, focal])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_logits_of_all_rows_are_ever_held(loss, reduction):
    rows, width, classes = 2048, 32, 8000
    head, hidden, target = setting(rows, width, classes)
    ours = chunk(loss, head, reduction=reduction, chunk_size=128, ignore_index=-100)
    ours(hidden, target).sum().backward()
    logits, chunk_of_logits = 4 * rows * classes, 4 * 128 * classes
    gradients = 4 * classes * width * 2
    assert peak_of(lambda: ours(hidden, target).sum().backward()) < gradients + 6 * chunk_of_logits
    assert gradients + 6 * chunk_of_logits < logits / 2


def test_nothing_stays_after_backward():
    head, hidden, target = setting(512, 32, 2000)
    ours = chunk(focal, head, ignore_index=-100, chunk_size=128)
    ours(hidden, target).backward()
    hidden.grad = head.weight.grad = head.bias.grad = None

    def step():
        ours(hidden, target).backward()
        hidden.grad = head.weight.grad = head.bias.grad = None

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.events()
    assert abs(sum(one.nbytes() for one in events if one.name() == "[memory]")) < 10_000


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_leaf_that_only_some_rows_use_is_refused_in_words(reduction: str) -> None:
    factor = nn.Parameter(torch.tensor(1.5))

    def loss(logits, target):
        values = F.cross_entropy(logits, target, reduction="none")
        rare = len(target) > 4 and bool((target > 15).any())
        return torch.where(target > 15, values * factor, values) if rare else values

    chunked = chunk(loss, nn.Linear(8, 20), reduction=reduction, chunk_size=100)
    with pytest.raises(UnsupportedGraphError, match="for some rows alone: give it by name"):
        chunked(torch.randn(200, 8), torch.arange(200) % 20).sum().backward()
