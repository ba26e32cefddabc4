"""The sources that a loss is written in."""

import functools

import torch.nn.functional as F
from torch import nn

from lossproof.checks.definitions import definitions
from lossproof.checks.subject import subject_of


class Above(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = 2.0

    def forward(self, input, target):
        return F.mse_loss(input, target)

    @property
    def focus(self):
        return self.gamma


class Below(Above):
    def forward(self, input, target):
        return (input - target).abs().mean()


def own(input, target):
    return F.mse_loss(input, target)


def names(loss, **options):
    return sorted(source.tree.name for source in definitions(subject_of(loss), **options))


def test_a_class_is_its_methods_and_those_it_inherits():
    assert names(Below()) == ["__init__", "focus", "forward"]
    assert names(Below(), overridden=True) == ["__init__", "focus", "forward", "forward"]


def test_a_function_is_itself_also_in_a_partial():
    assert names(own) == ["own"]
    assert names(functools.partial(own, target=None)) == ["own"]


def test_a_bound_method_is_a_function_of_its_class():
    assert names(Below().forward) == ["__init__", "focus", "forward"]
