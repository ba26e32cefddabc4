"""Whether one sample changes the gradient of another."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.batch import batch_of
from lossproof.checks.coupling import coupling_of, is_coupled, several_samples

PAIR = (torch.randn(4, 3), torch.randn(4, 3))


def info_nce(query, key):
    return F.cross_entropy(query @ key.T, torch.arange(len(query)))


def std_over_batch(input, target):
    return F.mse_loss(input, target) + input.std(0).mean()


def over_the_batch(input, target):
    return F.mse_loss(input.softmax(0), target)


@pytest.mark.parametrize(
    ("loss", "inputs", "coupled"),
    [
        (F.mse_loss, PAIR, False),
        (nn.MSELoss(reduction="none"), PAIR, False),
        (nn.CrossEntropyLoss(ignore_index=0), (PAIR[0], torch.tensor([0, 1, 2, 0])), False),
        (F.mse_loss, (PAIR[0][:1], PAIR[1][:1]), False),
        (info_nce, PAIR, True),
        (std_over_batch, PAIR, True),
        (over_the_batch, PAIR, True),
        (over_the_batch, (PAIR[0][:1], PAIR[1][:1]), True),
    ],
)
def test_coupled_losses_are_told_from_means(loss, inputs, coupled, examination):
    assert is_coupled(examination(loss, *inputs)) is coupled


def test_what_cannot_be_measured_counts_as_coupled(examination):
    case = examination(torch.square, torch.tensor(2.0))
    assert coupling_of(case) is None
    assert is_coupled(case)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_samples_are_added_where_there_are_few(count, examination):
    case = examination(F.mse_loss, torch.randn(count, 3), torch.randn(count, 3))
    batch = batch_of(case)
    values = several_samples(case, batch)
    assert batch.count(values) >= 3
    assert len({tuple(row.tolist()) for row in values[0]}) == batch.count(values)
    assert torch.equal(values[0][:count], case.inputs.values[0].detach())
