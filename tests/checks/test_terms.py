"""The terms that a loss adds up."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.terms import terms

PAIR = (torch.randn(4, 3), torch.randn(4, 3))


def weighted(input, target):
    one = F.mse_loss(input, target)
    two = (input - target).abs().mean()
    return (one + 0.5 * two) / 4 - input.mean()


def plain(input, target):
    return F.mse_loss(input, target)


def in_place(input, target):
    total = F.mse_loss(input, target)
    total += input.square().mean()
    return total


@pytest.mark.parametrize(("loss", "count"), [(weighted, 3), (plain, 1), (in_place, 1)])
def test_every_term_is_found_with_its_factor(loss, count, examination):
    found = examination(loss, *PAIR).twin
    parts = terms(found)
    assert len(parts) == count
    if loss is not in_place:
        signs = [1, 1, -1] if loss is weighted else [1]
        total = sum(sign * part.value for sign, part in zip(signs, parts, strict=True))
        assert total == pytest.approx(float(found.value.detach()))


def test_a_factor_on_the_way_counts(examination):
    one, two, three = terms(examination(weighted, *PAIR).twin)
    input, target = (value.double() for value in PAIR)
    assert one.value == pytest.approx(float(F.mse_loss(input, target) / 4))
    assert two.value == pytest.approx(float((input - target).abs().mean() / 8))
    assert three.value == pytest.approx(float(input.mean()))


def test_without_a_recording_there_are_none(examination):
    assert terms(examination(plain, *PAIR).evaluate()) == []
