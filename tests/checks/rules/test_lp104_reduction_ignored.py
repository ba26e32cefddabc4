"""LP104 reduction-ignored: what each value of the option gives."""

import enum
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Status

PAIR = ("float[4,3]", "float[4,3]")


class Reduction(enum.Enum):
    MEAN = "mean"
    SUM = "sum"
    NONE = "none"


class WithReduction(nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction


class NeverRead(WithReduction):
    def forward(self, input, target):
        return ((input - target) ** 2).mean()  # <-- here


class EnumAgainstText(nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = Reduction(reduction)

    def forward(self, input, target):
        error = (input - target) ** 2
        return error.mean() if self.reduction == "mean" else error.sum()  # <-- here


class TermWithoutIt(WithReduction):
    def __init__(self, reduction="mean"):
        super().__init__(reduction)
        self.mse = nn.MSELoss()

    def forward(self, input, target):
        return self.mse(input, target) + 0.1 * (input - target).abs().mean()  # <-- here


class NeedsWeights(WithReduction):
    def __init__(self, weight, reduction="mean"):
        super().__init__(reduction)
        self.weight = weight

    def forward(self, input, target):
        return (self.weight * (input - target) ** 2).mean()  # <-- here


def old_flag(input, target, size_average=True):
    total = F.mse_loss(input, target, reduction="sum")
    return total / input.numel()  # <-- here


@pytest.mark.parametrize(
    "loss",
    [
        NeverRead,
        NeverRead(reduction="sum"),
        EnumAgainstText,
        TermWithoutIt,
        NeedsWeights(torch.ones(3)),
        old_flag,
        functools.partial(old_flag, size_average=False),
    ],
)
def test_an_option_that_changes_nothing_is_found(loss, found, marked):
    (finding,) = found("LP104", loss, *PAIR)
    assert finding.cause == "ignored"
    assert "changes nothing" in finding.message
    source = getattr(loss, "func", loss)
    is_source = isinstance(source, type) or not isinstance(source, nn.Module)
    assert finding.location.line == marked(source if is_source else type(source))


class AlwaysTheSum(WithReduction):
    def forward(self, input, target):
        total = input.new_zeros(())
        for one, other in zip(input, target, strict=True):
            total = total + ((one - other) ** 2).sum()
        return total / input.numel() if self.reduction == "mean" else total


def test_none_that_sums_all_the_same_is_found_where_it_was_asked_for(found, silent):
    (finding,) = found("LP104", AlwaysTheSum("none"), *PAIR)
    assert finding.cause == "ignored"
    assert "none" in finding.message
    assert silent("LP104", AlwaysTheSum("mean"), *PAIR) is Status.PROVED


class MisspeltMean(WithReduction):
    def forward(self, input, target):
        error = (input - target) ** 2
        if self.reduction == "none":
            return error
        return error.mean() if self.reduction == "avg" else error.sum()


def test_a_mean_that_falls_through_to_the_sum_is_found(found):
    (finding,) = found("LP104", MisspeltMean, *PAIR)
    assert "`reduction='mean'` gives the same as `'sum'`" in finding.message


def exchanged(input, target, reduction="mean"):
    error = ((input - target) ** 2).sum(1)
    if reduction == "mean":
        return error.sum()
    return error.mean() if reduction == "sum" else error


def mean_for_sum(input, target, reduction="mean"):
    error = ((input - target) ** 2).sum(1)
    if reduction == "sum":
        return error.mean(dim=0)
    return error.mean() if reduction == "mean" else error


@pytest.mark.parametrize(
    ("loss", "cause"), [(exchanged, "mean-is-sum"), (mean_for_sum, "sum-is-mean")]
)
def test_a_mean_that_sums_and_a_sum_that_averages_are_told_apart(loss, cause, found):
    (finding,) = found("LP104", loss, *PAIR)
    assert finding.cause == cause


def none_is_reduced(input, target, reduction="mean"):
    error = (input - target) ** 2
    if reduction == "none":
        return error.max()
    return error.mean() if reduction == "mean" else error.sum()


def test_a_none_that_gives_one_number_of_its_own_is_found(found):
    (finding,) = found("LP104", none_is_reduced, *PAIR)
    assert finding.cause == "none-reduced"


class AveragedInside(WithReduction):
    def forward(self, input, target):
        error = F.mse_loss(input, target)  # <-- here
        loss = error * (1 + target.abs())
        if self.reduction == "mean":
            return loss.mean()
        return loss.sum() if self.reduction == "sum" else loss


def test_items_that_hold_an_inner_mean_are_found_at_the_inner_loss(found, marked):
    (finding,) = found("LP104", AveragedInside(), *PAIR)
    assert finding.cause == "averaged-inside"
    assert finding.location.line == marked(AveragedInside)


class ScaledByTheMean(WithReduction):
    """The items are scaled by their mean, which is held constant."""

    def forward(self, input, target):
        loss = F.mse_loss(input, target, reduction="none")
        loss = loss / F.mse_loss(input, target).detach()
        if self.reduction == "mean":
            return loss.mean()
        return loss.sum() if self.reduction == "sum" else loss


class BesideAMean(WithReduction):
    """A mean is added to every item."""

    def forward(self, input, target):
        loss = (input - target).abs() + F.mse_loss(input, target)
        if self.reduction == "mean":
            return loss.mean()
        return loss.sum() if self.reduction == "sum" else loss


@pytest.mark.parametrize("loss", [ScaledByTheMean, BesideAMean])
def test_items_of_their_own_are_no_mistake(loss, silent):
    silent("LP104", loss(), *PAIR)


class Flag(nn.Module):
    def __init__(self, size_average=True):
        super().__init__()
        self.size_average = size_average

    def forward(self, input, target):
        error = (input - target) ** 2
        return error.mean() if self.size_average else error.sum() / error.numel()  # <-- here


def test_a_flag_that_averages_in_other_words_is_found(found):
    (finding,) = found("LP104", Flag(), *PAIR)
    assert finding.cause == "ignored"
    assert "size_average=False" in finding.message


def breaks_at_none(input, target, reduction="mean"):
    error = (input - target) ** 2
    if reduction == "none":
        return errors  # noqa: F821  # <-- here
    return error.mean() if reduction == "mean" else error.sum()


def test_a_value_that_the_loss_names_and_breaks_at_is_found(found, marked):
    (finding,) = found("LP104", breaks_at_none, *PAIR)
    assert finding.cause == "raises"
    assert finding.location.line == marked(breaks_at_none)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.term = NeverRead()

    def forward(self, input, target):
        return 2 * self.term(input, target) + input.pow(2).mean()


INSIDE = NeverRead()


@pytest.mark.parametrize("loss", [Sum, lambda x, y: INSIDE(x, y), INSIDE.forward])
def test_modules_inside_a_loss_are_looked_at(loss, found, marked):
    (finding,) = found("LP104", loss, *PAIR)
    assert finding.location.line == marked(NeverRead)


# ------------------------------------------------------------------ not reported


class RightEnum(EnumAgainstText):
    def forward(self, input, target):
        error = (input - target) ** 2
        if self.reduction is Reduction.NONE:
            return error
        return error.mean() if self.reduction is Reduction.MEAN else error.sum()


class HandedOn(nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.mse = nn.MSELoss(reduction=reduction)

    def forward(self, input, target):
        return self.mse(input, target)


class WeightedMean(WithReduction):
    def forward(self, input, target):
        weight = target.abs()
        error = weight * (input - target) ** 2
        if self.reduction == "none":
            return error
        return error.sum() if self.reduction == "sum" else error.sum() / weight.sum()


class WeightsThatSumToOne(WithReduction):
    def forward(self, input, target):
        weight = target.abs() / target.abs().sum()
        error = weight * (input - target) ** 2
        return error if self.reduction == "none" else error.sum()


class MeanAndSumAlone(WithReduction):
    def forward(self, input, target):
        error = (input - target) ** 2
        return error.mean() if self.reduction == "mean" else error.sum()


class OneItem(WithReduction):
    def forward(self, input, target):
        p, y = input.sigmoid(), (target > 0).float()
        dice = 1 - 2 * (p * y).sum() / (p.sum() + y.sum())
        if self.reduction == "none":
            return dice
        return dice.mean() if self.reduction == "mean" else dice.sum()


class Refuses(WithReduction):
    def forward(self, input, target):
        if self.reduction not in ("mean", "sum"):
            raise ValueError("`reduction` must be 'mean' or 'sum', not 'none'")
        error = (input - target) ** 2
        return error.mean() if self.reduction == "mean" else error.sum()


class BatchMean(nn.Module):
    def __init__(self, reduction="batchmean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input, target):
        return F.kl_div(input.log_softmax(1), target.softmax(1), reduction=self.reduction)


@pytest.mark.parametrize(
    "loss",
    [
        RightEnum, HandedOn, WeightedMean, WeightsThatSumToOne, MeanAndSumAlone, OneItem, Refuses,
        BatchMean, F.mse_loss, nn.MSELoss(), nn.L1Loss(reduction="sum"), nn.SmoothL1Loss(),
    ],
)  # fmt: skip
def test_right_reductions_are_proved(loss, silent):
    assert silent("LP104", loss, *PAIR) is Status.PROVED


class Declared(WithReduction):
    """A loss of the whole batch.

    Args:
        reduction: accepted for compatibility, has no effect.
    """

    def forward(self, input, target):
        return 1 - F.cosine_similarity(input.flatten(), target.flatten(), dim=0)


class Below(MeanAndSumAlone):
    def forward(self, input, target):
        return F.l1_loss(input, target)


def test_a_class_that_replaces_the_forward_of_the_option_is_unproved(silent):
    assert silent("LP104", Below, *PAIR) is Status.UNPROVED


@pytest.mark.parametrize("loss", [Declared, lambda x, y: (x - y).pow(2).mean()])
def test_no_option_is_not_applicable(loss, silent):
    assert silent("LP104", loss, *PAIR) is Status.NOT_APPLICABLE


def test_cross_entropy_with_weights_is_right(silent):
    weight = torch.tensor([1.0, 2.0, 3.0])
    inputs = ("float[4,3]", torch.tensor([0, 1, 2, 1]))
    assert silent("LP104", nn.CrossEntropyLoss(weight=weight), *inputs) is Status.PROVED


def test_the_loss_is_as_it_was(examination):
    from lossproof.checks.rules import RULES

    case = examination(Sum(), *PAIR)
    RULES["LP104"].examine(case)
    assert case.subject.call.term.reduction == "mean"
    assert "forward" not in vars(case.subject.call.term)


def test_the_page(page_code, module_of, found, silent):
    head = "from torch import nn\n\nREDUCTIONS = {'none': 0, 'mean': 1, 'sum': 2}\n\n\n"
    bad = module_of(head + page_code("LP104", "Example"), "bad")
    good = module_of(head + page_code("LP104", "Use instead"), "good")
    (finding,) = found("LP104", bad.MyMSE, *PAIR)
    assert finding.location.line == 13
    assert silent("LP104", good.MyMSE, *PAIR) is Status.PROVED
