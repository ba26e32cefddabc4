"""The samples that are named are the ones at fault, in whatever order their rows are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.diagnosis import diagnose

BATCH, LENGTH = 4, 8


def blamed(recording, model, kind=AlarmKind.NON_FINITE_LOSS):
    return diagnose(kind, recording.record, model, term="loss").samples


def tokens():
    """A batch of sequences, and which tokens count: 8, five of them in the last sample."""
    torch.manual_seed(0)
    mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    mask[3, :5] = mask[0, 0] = mask[1, 0] = mask[2, 0] = True
    return nn.Linear(3, 5), torch.randn(BATCH, LENGTH, 3), mask


def weighted(out, weight):
    return (out.square().sum(-1) / weight).mean()


def test_rows_that_a_mask_has_left_within_the_function(recording):
    model, x, mask = tokens()
    weight = torch.ones(BATCH, LENGTH)
    weight[3, 1] = 0  # the fifth of eight rows, which are no two of each sample
    recording.terms(lambda x, mask, w: weighted(model(x)[mask], w[mask]), x, mask, weight)
    assert blamed(recording, model) == (3,)


def test_rows_that_a_mask_has_left_before_the_loss(recording):
    model, x, mask = tokens()
    weight = torch.ones(8)
    weight[4] = 0
    recording.terms(weighted, recording.model(model, x)[mask], weight)
    assert blamed(recording, model) == (3,)


@pytest.mark.parametrize("order", ["samples first", "time first"])
def test_rows_that_are_tokens(recording, order):
    model, x, _ = tokens()
    out = recording.model(model, x)
    out = out if order == "samples first" else out.transpose(0, 1)
    weight = torch.ones(BATCH * LENGTH)
    weight[11] = 0
    recording.terms(weighted, out.reshape(-1, 5), weight)
    assert blamed(recording, model) == ((1,) if order == "samples first" else (3,))


def test_rows_in_another_order(recording):
    model, x, _ = tokens()
    weight = torch.ones(BATCH)
    weight[0] = 0
    order = torch.tensor([2, 0, 3, 1])
    recording.terms(weighted, recording.model(model, x[:, 0])[order], weight)
    assert blamed(recording, model) == (2,)


def test_rows_that_were_sorted_within_the_function(recording):
    model, x, _ = tokens()

    def loss(x, weight):
        sizes = model(x).square().sum(1)
        order = sizes.detach().argsort()
        return (sizes[order] / weight[order]).mean()

    weight = torch.ones(BATCH)
    weight[1] = 0
    recording.terms(loss, x[:, 0], weight)
    assert blamed(recording, model) == (1,)


def test_classes_are_no_samples(recording):
    model = nn.Linear(3, BATCH)

    def loss(x, target):
        hot = F.one_hot(target, BATCH).float()
        return ((model(x).softmax(1) * hot).sum(0) / hot.sum(0)).mean()

    recording.terms(loss, torch.randn(BATCH, 3), torch.tensor([0, 1, 2, 2]))
    assert blamed(recording, model) == ()


def test_pairs_are_no_samples(recording):
    model, x = nn.Linear(3, 2), torch.randn(7, 3)
    x[5] = x[2]

    def loss(x):
        one, other = torch.triu_indices(7, 7, 1)  # 21 pairs: three times seven
        out = model(x)
        return (1 / (out[one] - out[other]).square().sum(1)).mean()

    recording.terms(loss, x)
    assert blamed(recording, model) == ()


def test_what_is_infinite_without_them_too(recording):
    """The sum of what is left overflows as well, but none of it does so alone."""
    model, x = nn.Linear(1, 1), torch.ones(4, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    x[1] = 30.0
    recording.terms(lambda x: (model(x) * 3e38).mean(), x)
    assert blamed(recording, model) == (1,)


def test_the_gradient_of_rows_that_a_mask_has_left(recording):
    model, x, mask = tokens()
    target = torch.randn(BATCH, LENGTH, 5)
    target[3, 1] = model(x)[3, 1].detach()

    def loss(x, mask, target):
        return (model(x)[mask] - target[mask]).square().sum(1).sqrt().mean()

    recording.terms(loss, x, mask, target).backward()
    assert blamed(recording, model, AlarmKind.NON_FINITE_GRADIENT) == (3,)


@pytest.mark.parametrize("order", ["masked", "time first"])
def test_an_explosion_of_rows_in_another_order(recording, order):
    model, x, mask = tokens()
    out = recording.model(model, x)
    out = out[mask] if order == "masked" else out.transpose(0, 1).reshape(-1, 5)
    target = torch.randn(len(out), 5)
    target[4 if order == "masked" else 11] = 1e6
    recording.terms(F.mse_loss, out, target)
    assert blamed(recording, model, AlarmKind.EXPLODING_LOSS) == (3,)


def test_a_sequence_that_explodes_as_a_whole(recording):
    model, x, _ = tokens()
    target = torch.randn(BATCH, 64, 5)
    target[2] *= 1e6
    out = recording.model(model, x.repeat(1, 8, 1))
    recording.terms(F.mse_loss, out.reshape(-1, 5), target.reshape(-1, 5))
    assert blamed(recording, model, AlarmKind.EXPLODING_LOSS) == (2,)


def test_an_infinity_of_the_batch_is_no_finite_number(recording):
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(6, 3)
    x[2] = float("inf")
    recording.terms(lambda x: model(x).mean(), x)
    found = diagnose(AlarmKind.NON_FINITE_LOSS, recording.record, model, term="loss")
    assert (found.operation, found.samples) == ("addmm", (2,))
    assert found.notes[0] == "`addmm` of infinite numbers is nan, for sample 2 of 6"
