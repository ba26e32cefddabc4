"""Accuracy against magnitude, with the exact numbers of `math` and `decimal` as the truth."""

from decimal import Decimal, getcontext

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.accuracy import MAGNITUDES, accuracy, deviation


def softplus_by_hand(x):
    return torch.log(1 + torch.exp(x)).sum()


def test_a_stable_loss_is_accurate_everywhere(examination):
    x, y = torch.linspace(-2, 2, 7), torch.tensor([0.0, 1, 0, 1, 1, 0, 1])
    entries = accuracy(examination(F.binary_cross_entropy_with_logits, x, y))
    assert [entry.magnitude for entry in entries] == list(MAGNITUDES)
    assert {entry.dtype for entry in entries} == {"float32"}
    assert all(entry.value < 1e-3 for entry in entries)


def test_an_overflow_is_an_infinite_error(examination):
    entries = accuracy(examination(softplus_by_hand, torch.linspace(-2, 2, 7)))
    by_magnitude = {entry.magnitude: entry for entry in entries}
    assert by_magnitude[10.0].value < 1e-6
    assert by_magnitude[300.0].value == float("inf")
    assert 1e3 not in by_magnitude  # float64 overflows, too: nothing to compare with


def test_probabilities_come_from_logits(examination):
    p, y = torch.linspace(0.1, 0.9, 6), torch.tensor([0.0, 1, 0, 1, 1, 0])
    entries = accuracy(examination(F.binary_cross_entropy, p, y))
    assert entries[0].value < 1e-6


def test_nothing_to_scale_gives_nothing(examination):
    p = torch.softmax(torch.randn(3, 4), 1)
    assert accuracy(examination(lambda p: (p * p.log()).sum(), p)) == []


def test_a_crash_gives_nothing(examination):
    def broken(x):
        raise RuntimeError("no")

    assert accuracy(examination(broken, torch.randn(3))) == []


@pytest.mark.parametrize("size", [10.0, 1000.0])
def test_the_error_is_that_of_exact_arithmetic(examination, size):
    def variance(x):
        return (x**2).mean() - x.mean() ** 2

    x = torch.tensor([0.25, -0.5, 1.0, 0.125]) + size
    getcontext().prec = 60
    exact = [Decimal(float(one)) for one in x]
    mean = sum(exact) / len(exact)
    truth = float(sum((one - mean) ** 2 for one in exact) / len(exact))
    error = abs(float(variance(x)) - truth) / truth
    found = deviation(examination(variance, x), (x,))
    assert found.value == pytest.approx(error, rel=1e-3)
