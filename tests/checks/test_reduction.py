"""The `reduction` option of a loss, and what each of its values gives."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.reduction import identical, mean_of, option_of, results_of, sum_of

PAIR = ("float[4,3]", "float[4,3]")


class Own(nn.Module):
    def __init__(self, size_average=None, reduction="mean"):
        super().__init__()
        self.how = {"mean": 1, "sum": 2, "none": 0}[reduction]

    def forward(self, input, target):
        error = (input - target) ** 2
        return (error, error.mean(), error.sum())[self.how]


class FixedAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduction = "sum"

    def forward(self, input, target):
        return F.mse_loss(input, target, reduction=self.reduction)


def test_the_option_is_found_wherever_it_is(examination):
    def argument(input, target, reduction):
        return F.mse_loss(input, target, reduction=reduction)

    found = {
        "constructor": option_of(examination(Own(), *PAIR)),
        "keyword": option_of(examination(F.mse_loss, *PAIR)),
        "bound": option_of(examination(functools.partial(F.mse_loss, reduction="sum"), *PAIR)),
        "attribute": option_of(examination(FixedAttribute(), *PAIR)),
        "argument": option_of(examination(argument, *PAIR, "none")),
    }
    assert {option.name for option in found.values()} == {"reduction"}
    assert all(list(option.variants) == ["none", "mean", "sum"] for option in found.values())
    assert found["bound"].current == "sum"
    assert found["argument"].current == "none"


def test_no_option_is_none(examination):
    assert option_of(examination(lambda x, y: (x - y).abs().mean(), *PAIR)) is None


def test_results_stand_in_the_relations_of_a_right_loss(examination):
    case = examination(Own(), *PAIR)
    results = results_of(case, option_of(case))
    assert results.given == ["none", "mean", "sum"]
    assert results.repeated
    assert results.many_items
    assert results.elements("none") == 12
    assert results.doubles("sum")
    assert not results.doubles("mean")
    assert results.all_points("mean", mean_of, but=sum_of)
    assert results.all_points("sum", sum_of, but=mean_of)
    assert not results.all_points("mean", sum_of, but=mean_of)
    assert not identical(results, "mean", "sum")
    assert identical(results, "sum", "sum")


def test_a_value_that_is_refused_has_failed_and_did_not_break(examination):
    def refusing(input, target, reduction="mean"):
        if reduction == "none":
            raise ValueError("no items here")
        error = (input - target) ** 2
        return error.mean() if reduction == "mean" else error.sum()

    case = examination(refusing, *PAIR)
    results = results_of(case, option_of(case))
    assert list(results.failed) == ["none"]
    assert not results.broke("none")


def test_one_sample_alone_decides_nothing_unless_it_can_be_repeated(examination):
    case = examination(nn.CrossEntropyLoss(), "float[1,3]", torch.tensor([1]))
    results = results_of(case, option_of(case))
    assert results.repeated or results.undecided
