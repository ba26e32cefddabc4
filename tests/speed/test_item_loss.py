"""What is known of a loss, however it was written."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossproof.speed.item_loss import ItemLoss

WEIGHT = torch.tensor([1.0, 2.0, 3.0])


def own(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


class Contract(nn.Module):
    def forward(self, logits, target, reduction="sum"):
        return F.cross_entropy(logits, target, reduction=reduction)


@pytest.mark.parametrize(
    ("loss", "reduction"),
    [
        (F.cross_entropy, "mean"),
        (functools.partial(F.cross_entropy, reduction="sum"), "sum"),
        (functools.partial(functools.partial(F.cross_entropy, reduction="sum")), "sum"),
        (nn.CrossEntropyLoss(reduction="sum"), "sum"),
        (Contract(), "sum"),
        (own, None),
    ],
)
def test_values_and_reduction(loss, reduction):
    item = ItemLoss(loss)
    assert item.reduction == reduction
    logits, target = torch.randn(4, 3), torch.randint(0, 3, (4,))
    found = item.values({}, (logits, target), {})
    torch.testing.assert_close(found, own(logits, target))
    if reduction is not None:
        found = item.values({}, (logits, target), {}, "mean")
        torch.testing.assert_close(found, own(logits, target).mean())
        assert ItemLoss(loss).reduction == reduction  # nothing was changed


def test_options_as_they_were_set_or_by_default():
    partial = functools.partial(F.cross_entropy, label_smoothing=0.1)
    assert ItemLoss(partial).option("label_smoothing") == 0.1
    assert ItemLoss(partial).option("ignore_index") == -100
    assert ItemLoss(nn.CrossEntropyLoss(ignore_index=3)).option("ignore_index") == 3
    assert ItemLoss(own).option("target") is None and ItemLoss(own).option("gamma") is None
    assert ItemLoss(F.cross_entropy).takes("ignore_index") and not ItemLoss(own).takes("weight")


def test_torchs_cross_entropy_is_known():
    for loss in (F.cross_entropy, nn.CrossEntropyLoss(), functools.partial(F.cross_entropy)):
        assert ItemLoss(loss).is_cross_entropy()
    for loss in (own, nn.NLLLoss(), Contract()):
        assert not ItemLoss(loss).is_cross_entropy()


def test_what_a_mean_may_divide_by():
    indices, soft = torch.tensor([0, 1]), torch.rand(2, 3)
    weighted = nn.CrossEntropyLoss(weight=WEIGHT)
    assert ItemLoss(weighted).counting(indices) == ("class weights",)
    assert ItemLoss(weighted).counting(soft) == ("items",)
    assert ItemLoss(F.cross_entropy).counting(indices) == ("items",)

    def mine(logits, target, weight=WEIGHT, reduction="mean"):
        return None

    assert ItemLoss(mine).counting(indices) == ("class weights", "items")


def test_a_builtin_without_a_signature_is_called_as_it_is():
    item = ItemLoss(torch.mul)
    assert item.reduction is None
    assert torch.equal(
        item.values({}, (torch.ones(2), torch.full((2,), 3.0)), {}), 3 * torch.ones(2)
    )
