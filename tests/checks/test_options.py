"""The options of a loss, and the same loss with others."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.options import (
    constructor_of,
    instance_of,
    keyword_options,
    remade,
    stored_arguments,
    with_argument,
    with_attribute,
    with_keyword,
)

PAIR = ("float[4,3]", "float[4,3]")


class Loss(nn.Module):
    def __init__(self, gamma, alpha=0.25, scale=2, mode="mean", **rest):
        super().__init__()
        self.gamma, self.focus = float(gamma), alpha
        self.scale = torch.tensor(scale)
        self.mode = {"mean": 1}[mode]
        self.layer = nn.Linear(3, 1)

    def forward(self, input, target, power=1.0):
        error = (self.layer(input - target).abs() ** self.gamma).mean()
        return self.focus * self.scale * error**power


def test_what_the_constructor_keeps_is_told_from_what_it_changes():
    assert stored_arguments(Loss) == {
        "gamma": "gamma", "alpha": "focus", "scale": None, "mode": None,
    }  # fmt: skip


def test_arguments_are_recovered_where_they_are_kept(examination):
    loss = Loss(3.0, alpha=0.5)
    constructor = constructor_of(loss)
    assert constructor.arguments == {"gamma": 3.0, "alpha": 0.5}
    assert set(constructor.parameters) == {"gamma", "alpha", "scale", "mode"}


class Lost(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, 1)

    def forward(self, input, target):
        return (self.layer(input) - self.layer(target)).pow(2).mean()


def test_a_needed_argument_that_is_not_kept_leaves_no_constructor():
    assert constructor_of(Lost(3)) is None


def test_a_loss_made_again_has_the_same_parameters(examination):
    case = examination(Loss(2.0), *PAIR)
    constructor = constructor_of(instance_of(case))
    same = case.evaluate(subject=remade(case, constructor))
    other = case.evaluate(subject=remade(case, constructor, alpha=0.5))
    torch.testing.assert_close(same.value, case.base.value)
    torch.testing.assert_close(other.value, 2 * case.base.value)
    assert remade(case, constructor, mode="no such") is None


def test_attributes_keywords_and_arguments_are_varied_without_a_trace(examination):
    case = examination(Loss(2.0), *PAIR)
    before = float(case.base.value.detach())
    varied = {
        "attribute": with_attribute(case.subject, instance_of(case), "focus", 0.75),
        "keyword": with_keyword(case.subject, "power", 2.0),
        "argument": with_argument(case.subject, 1, case.inputs.values[0]),
    }
    values = {how: float(case.evaluate(subject=one).value.detach()) for how, one in varied.items()}
    assert abs(values["attribute"] - 3 * before) < 1e-5
    assert abs(values["keyword"] - before**2 / 0.5) < 1e-4
    assert values["argument"] < before
    assert case.subject.call.focus == 0.25


def test_keywords_left_at_their_defaults_are_options(examination):
    bound = functools.partial(F.smooth_l1_loss, beta=0.5)
    options = keyword_options(examination(bound, *PAIR))
    assert options["beta"] == 0.5
    assert "target" not in options


def test_a_function_has_no_instance(examination):
    assert instance_of(examination(F.mse_loss, *PAIR)) is None
    loss = Loss(2.0)
    assert isinstance(instance_of(examination(loss.forward, *PAIR)), Loss)
