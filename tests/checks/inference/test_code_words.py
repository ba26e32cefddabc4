"""What the code of a loss says about its inputs."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.inference.code_words import words_of
from lossproof.checks.subject import subject_of


def helper(x):
    return torch.logsigmoid(x) if hasattr(torch, "logsigmoid") else F.logsigmoid(x)


def loss(input, target, log_target=True):
    return helper(input).mean()


class Deep(nn.Module):
    def __init__(self, num_classes=7):
        super().__init__()
        self.inner = nn.KLDivLoss()
        self.num_classes = num_classes
        self.softmax = True
        self.weights = nn.Parameter(torch.ones(num_classes, 3))

    def forward(self, input, target):
        return self.inner(input, target) + self.weights.sum()


def words(of):
    return words_of(subject_of(of))


def test_helpers_are_followed():
    assert words(loss).call("logsigmoid")
    assert not words(loss).call("gather")


def test_partials_lambdas_and_closures_are_seen_through():
    made = functools.partial(loss, log_target=False)
    assert words(made).call("logsigmoid")
    assert words(lambda x, y: loss(x, y)).call("logsigmoid")
    inner = nn.BCELoss()
    assert words(lambda x, y: inner(x, y)).call("binary_cross_entropy")
    assert "bceloss" in words(lambda x, y: inner(x, y)).title


def test_parts_and_sizes_of_a_module():
    found = words(Deep())
    assert found.call("kl_div")
    assert (found.classes, found.features) == (7, 3)
    assert "softmax" in found.switched_on


def test_options_that_are_on():
    assert words(loss).switched_on == {"log_target"}
    assert not words(functools.partial(loss, log_target=False)).switched_on
    assert "log_target" in words(nn.KLDivLoss(log_target=True)).switched_on


def test_several_vectors_for_each_class():
    class Proxies(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_classes = 4
            self.proxies = nn.Parameter(torch.randn(8, 40))

        def forward(self, embeddings, labels):
            return (embeddings @ self.proxies).sum()

    assert words(Proxies()).features == 8
