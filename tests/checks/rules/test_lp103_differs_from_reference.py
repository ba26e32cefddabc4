"""LP103 differs-from-reference: another value, another gradient, and by what."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Status

PAIR = ("float[6,4]", "float[6,4]")
CLASSES = ("float[6,4]", "int[6]<4")
PROBABILITY = ("unit[6]", "binary[6]")


def half(input, target):
    return 0.5 * ((input - target) ** 2).mean()


def summed(input, target):
    return ((input - target) ** 2).sum()


def shifted(input, target):
    return ((input - target) ** 2).mean() + 0.25


def over_the_wrong_axis(logits, target):
    return -F.log_softmax(logits, 0).gather(1, target[:, None]).mean()


def softmax_twice(logits, target):
    return F.cross_entropy(logits.softmax(1), target)


def swapped(input, target):
    return F.kl_div(target.log_softmax(1), input.softmax(1), reduction="batchmean")


def detached_weight(input, target):
    error = (input - target).abs()
    return (error.detach() * error).mean()


def straight_through(input, target):
    doubled = 2 * input
    return F.mse_loss(input.detach() + doubled - doubled.detach(), target)


def unreduced(input, target):
    return (input - target) ** 2


@pytest.mark.parametrize(
    ("loss", "reference", "inputs", "cause", "said"),
    [
        (half, F.mse_loss, PAIR, "constant-factor", "always 0.5 times"),
        (summed, F.mse_loss, PAIR, "constant-factor", "always 24 times"),
        (shifted, F.mse_loss, PAIR, "constant-offset", "always +0.25"),
        (over_the_wrong_axis, F.cross_entropy, CLASSES, None, "where the reference gives"),
        (softmax_twice, F.cross_entropy, CLASSES, None, "where the reference gives"),
        (swapped, nn.KLDivLoss(reduction="batchmean"), ("logprob[6,4]", "prob[6,4]"), None, ""),
        (detached_weight, F.mse_loss, PAIR, "gradient", "its gradient for `input` differs by 0.5"),
        (straight_through, F.mse_loss, PAIR, "gradient", "differs by 1"),
        (unreduced, F.mse_loss, PAIR, "shape", "returns shape [6, 4], the reference []"),
    ],
)
def test_the_difference_is_named(loss, reference, inputs, cause, said, found):
    (finding,) = found("LP103", loss, *inputs, reference=reference)
    assert finding.cause == cause
    assert said in finding.message
    assert finding.location.file == __file__


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("error", [1.0, 1 + 1e-4])
def test_it_is_told_at_every_scale(scale, error, verdicts):
    def ours(input, target):
        return error * scale * F.mse_loss(input, target)

    def reference(input, target):
        return scale * F.mse_loss(input, target)

    (said,) = verdicts("LP103", ours, *PAIR, reference=reference)
    assert (getattr(said, "status", None) is Status.PROVED) is (error == 1.0)


def cross_entropy_by_hand(logits, target):
    log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
    return -log_p[torch.arange(len(target)), target].mean()


def loop(logits, target):
    total = 0.0
    for row, label in zip(logits, target, strict=True):
        total = total + torch.log(torch.exp(row).sum()) - row[label]
    return total / len(target)


def binary_with_eps(p, target, eps=1e-12):
    return -(target * (p + eps).log() + (1 - target) * (1 - p + eps).log()).mean()


def huber_by_hand(input, target):
    r = (input - target).abs()
    return torch.where(r < 1, 0.5 * r**2, r - 0.5).mean()


def log_cosh(input, target):
    return torch.log(torch.cosh(input - target)).mean()


def log_cosh_stable(input, target):
    x = input - target
    return (x + F.softplus(-2 * x) - math.log(2)).mean()


class Smoothed(nn.Module):
    def __init__(self, eps=0.1):
        super().__init__()
        self.eps = eps

    def forward(self, logits, target):
        log_p = logits.log_softmax(1)
        right = -log_p.gather(1, target[:, None])[:, 0]
        return ((1 - self.eps) * right - self.eps * log_p.mean(1)).mean()


def one_element(input, target):
    return F.mse_loss(input, target).reshape(1)


@pytest.mark.parametrize(
    ("loss", "reference", "inputs"),
    [
        (cross_entropy_by_hand, F.cross_entropy, CLASSES),
        (loop, nn.CrossEntropyLoss, CLASSES),
        (binary_with_eps, F.binary_cross_entropy, PROBABILITY),
        (huber_by_hand, nn.SmoothL1Loss(), PAIR),
        (log_cosh, log_cosh_stable, PAIR),
        (Smoothed(), nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
        (one_element, F.mse_loss, PAIR),
        (F.mse_loss, nn.MSELoss, PAIR),
    ],
)
def test_equal_losses_are_proved(loss, reference, inputs, silent):
    assert silent("LP103", loss, *inputs, reference=reference) is Status.PROVED


def test_without_a_reference_it_is_not_applicable(silent):
    assert silent("LP103", F.mse_loss, *PAIR) is Status.NOT_APPLICABLE


def test_a_reference_that_fails_leaves_it_unproved(verdicts):
    def broken(input, target):
        raise KeyError("missing")

    (said,) = verdicts("LP103", F.mse_loss, *PAIR, reference=broken)
    assert said.status is Status.UNPROVED
    assert "KeyError" in said.detail
    (said,) = verdicts("LP103", F.mse_loss, *PAIR, reference=lambda i, t: (i / 0).sum())
    assert said.status is Status.UNPROVED
