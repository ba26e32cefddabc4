"""Losses and heads whose rows depend on each other are refused, others are left alone."""

from __future__ import annotations

import functools

import pytest
import torch
from tests.speed.chunk_cases import CLASSES, WIDTH, batch, focal
from torch import nn
from torch.nn import functional as F

from lossproof.errors import UsageError
from lossproof.speed.chunking import chunk
from lossproof.speed.separability import NotSeparableError


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def values(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


def standardized(logits, target):
    found = values(logits, target)
    return (found - found.mean()) / found.std(correction=0)


def hardest(logits, target):
    found = values(logits, target)
    return found * (found >= found.median())


def balanced(logits, target):
    return values(logits, target) / torch.bincount(target, minlength=CLASSES)[target]


def contrastive(logits, target):
    return values(logits @ logits.t(), torch.arange(len(logits)))


def by_number(logits, target):
    return values(logits, target) / len(logits)


@pytest.mark.parametrize("loss", [standardized, hardest, balanced, contrastive, by_number])
def test_coupled_losses_are_refused(loss):
    hidden, target = batch()
    with pytest.raises(NotSeparableError, match=r"the loss of row \d+ is .* alone and .* beside"):
        chunk(loss, nn.Linear(WIDTH, CLASSES))(hidden, target.clamp(min=0))


@pytest.mark.parametrize("first", ["all ignored", "empty"])
def test_a_batch_without_rows_that_count_proves_nothing(first):
    hidden, target = batch()
    loss = chunk(hardest, nn.Linear(WIDTH, CLASSES), ignore_index=-100)
    if first == "empty":
        loss(hidden[:0], target[:0])
    else:
        loss(hidden, torch.full_like(target, -100))
    with pytest.raises(NotSeparableError):
        loss(hidden, target)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(CLASSES),
        nn.BatchNorm1d(CLASSES, track_running_stats=False).eval(),
        nn.Sequential(nn.Unflatten(1, (CLASSES, 1)), nn.BatchNorm1d(CLASSES), nn.Flatten()),
    ],
)
def test_batch_normalization_is_refused(layer):
    hidden, target = batch()
    with pytest.raises(NotSeparableError, match="statistics of the batch"):
        chunk(focal, nn.Sequential(nn.Linear(WIDTH, CLASSES), layer), ignore_index=-100)(
            hidden, target
        )


def test_batch_normalization_by_running_statistics_is_fine():
    hidden, target = batch()
    head = nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.BatchNorm1d(CLASSES)).eval()
    chunk(F.cross_entropy, head)(hidden, target)


def test_a_head_that_couples_rows_is_refused():
    hidden, target = batch()
    head = nn.Linear(WIDTH, CLASSES)
    with pytest.raises(NotSeparableError, match="the head's output of row 0"):
        chunk(F.cross_entropy, lambda rows: head(rows - rows.mean(0)))(hidden, target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 3000.0])
def test_rounding_is_no_coupling(dtype, scale):
    head = nn.Linear(512, 300).to(dtype)
    hidden = (torch.randn(64, 512) * scale).clamp(-3e4, 3e4).to(dtype)
    chunk(focal, head)(hidden, torch.randint(0, 300, (64,)))


def test_what_is_drawn_at_random_is_told():
    hidden, target = batch()

    def noisy(logits, target):
        return values(F.dropout(logits, 0.5), target)

    loss = chunk(noisy, nn.Linear(WIDTH, CLASSES), ignore_index=-100)
    with pytest.warns(RuntimeWarning, match="the loss is drawn at random") as told:
        loss(hidden, target)
    assert len(told) == 1
    loss(hidden, target)  # once is enough


def test_the_probe_leaves_generators_and_buffers_alone():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, logits, target):
            self.calls += 1
            return values(logits, target)

    hidden, target = batch()
    loss = chunk(Counter(), nn.Linear(WIDTH, CLASSES), chunk_size=len(target))
    state = torch.get_rng_state()
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="`calls` of Counter"):
        loss(hidden, target.clamp(min=0))
    assert loss.loss.calls == 1
    assert torch.equal(torch.get_rng_state(), state)


def over_all(logits, target, reduction="mean", ignore_index=-100):
    found = F.cross_entropy(logits, target, reduction="none", ignore_index=ignore_index)
    return {"none": found, "mean": found.mean(), "sum": found.sum()}[reduction]


def over_items(logits, target, weight=None, reduction="mean"):
    found = F.cross_entropy(logits, target, reduction="none", weight=weight)
    return {"none": found, "mean": found.mean(), "sum": found.sum()}[reduction]


def test_a_mean_over_what_is_unknown_is_refused():
    hidden, target = batch()
    head = nn.Linear(WIDTH, CLASSES)
    with pytest.raises(UsageError, match="what its mean divides by is not known"):
        chunk(over_all, head)(hidden, target)
    # Told by who knows.
    found = chunk(over_all, head)(hidden, target, normalizer=len(target))
    torch.testing.assert_close(found, over_all(head(hidden), target))


def test_a_mean_is_told_from_another_where_the_first_batch_has_classes_of_weight_one():
    hidden, target = batch()
    target = target.clamp(min=1)
    weight = torch.ones(CLASSES)
    weight[0] = 5
    head = nn.Linear(WIDTH, CLASSES)
    loss = chunk(functools.partial(over_items, weight=weight), head)
    loss(hidden, target)
    target[::2] = 0
    torch.testing.assert_close(loss(hidden, target), over_items(head(hidden), target, weight))
