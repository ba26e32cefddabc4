"""The losses of the catalogue over a head: each as it is of the whole batch, or refused."""

from __future__ import annotations

import inspect

import pytest
import torch
from tests.speed.chunk_cases import CLASSES, ROWS, WIDTH
from torch import nn

from lossproof import losses
from lossproof.errors import UsageError
from lossproof.speed.chunking import chunk
from lossproof.speed.separability import NotSeparableError

BY_ROW = """
coral_loss cross_entropy_loss dice_loss emd2_loss focal_loss focal_tversky_loss
generalized_cross_entropy_loss generalized_dice_loss jaccard_loss poly1_cross_entropy_loss
symmetric_cross_entropy_loss tversky_loss
""".split()
COUPLED = """
batch_hard_triplet_loss circle_loss multi_similarity_loss pairwise_contrastive_loss sup_con_loss
topk_cross_entropy_loss
""".split()


def setting():
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    return hidden, torch.randint(0, CLASSES, (ROWS,)), nn.Linear(WIDTH, CLASSES).double()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", BY_ROW)
def test_a_loss_of_rows_is_what_it_is_of_the_whole_batch(name, reduction):
    hidden, target, head = setting()
    loss = getattr(losses, name)
    found = chunk(loss, head, reduction=reduction, chunk_size=8)(hidden, target)
    expected = loss(head(hidden), target, reduction=reduction)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    factor = torch.linspace(0.5, 2, found.numel(), dtype=torch.float64).reshape(found.shape)
    leaves = [hidden, *head.parameters()]
    for one, other in zip(
        torch.autograd.grad((found * factor).sum(), leaves),
        torch.autograd.grad((expected * factor).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", COUPLED)
def test_a_loss_of_the_batch_is_refused(name):
    hidden, target, head = setting()
    with pytest.raises(NotSeparableError):
        chunk(getattr(losses, name), head)(hidden, target)


def test_no_loss_is_silently_another_one():
    hidden, target, head = setting()
    tried = 0
    for name, loss in inspect.getmembers(losses, inspect.isfunction):
        if not name.endswith("_loss") or name in BY_ROW + COUPLED:
            continue
        try:
            expected = loss(head(hidden), target)
        except (TypeError, ValueError, IndexError, RuntimeError):
            continue  # it takes something else
        tried += 1
        try:
            found = chunk(loss, head, chunk_size=8)(hidden, target)
        except (UsageError, ValueError):
            continue
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert tried
