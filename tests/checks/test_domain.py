"""The domain of a tensor, read off its values."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.domain import Domain, Kind, domain_of, largest

torch.manual_seed(0)
NORMAL = torch.randn(6, 4)


def rotation(angle):
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)


@pytest.mark.parametrize(
    ("tensor", "kind", "axis"),
    [
        (NORMAL, Kind.REAL, None),
        (NORMAL.exp(), Kind.POSITIVE, None),
        (NORMAL.relu() * 9, Kind.NONNEGATIVE, None),
        (-NORMAL.relu() * 9 - 0.5, Kind.NEGATIVE, None),
        (NORMAL.sigmoid(), Kind.UNIT, None),
        (NORMAL.softmax(1), Kind.PROBABILITY, 1),
        (torch.randn(2, 3, 5).softmax(-1), Kind.PROBABILITY, 2),
        (NORMAL.softmax(1).half(), Kind.PROBABILITY, 1),
        (NORMAL.log_softmax(1), Kind.LOG_PROBABILITY, 1),
        (F.normalize(NORMAL, dim=1), Kind.UNIT_NORM, 1),
        (rotation(torch.linspace(0.1, 1.0, 4)), Kind.ROTATION, None),
        ((NORMAL > 0).float(), Kind.BINARY, None),
        (NORMAL.sign(), Kind.SIGN, None),
        (torch.randint(0, 9, (20,)), Kind.INTEGER, None),
        (torch.zeros(0), Kind.REAL, None),
        (torch.tensor(0.3), Kind.UNIT, None),
    ],
)
def test_the_narrowest_domain(tensor, kind, axis):
    assert domain_of(tensor) == Domain(kind, axis)
    assert domain_of(tensor).contains(tensor)


def test_a_prediction_that_holds_whole_numbers_still_varies():
    assert domain_of(torch.tensor([0.0, 1.0, 1.0]), smooth=True).kind is Kind.UNIT
    assert domain_of(torch.tensor([-1.0, 1.0, 1.0]), smooth=True).kind is Kind.REAL


@pytest.mark.parametrize("name", ["var", "sigma", "log_scale", "variance", "temperature", "b"])
def test_a_variance_is_told_by_its_name(name):
    values = torch.rand(6) + 0.01
    assert domain_of(values.clamp(max=0.9), name).kind is Kind.POSITIVE


@pytest.mark.parametrize("name", ["p", "prediction", "scores", "vari"])
def test_a_probability_keeps_its_borders(name):
    assert domain_of(torch.rand(6), name).kind is Kind.UNIT


def test_borders_belong_to_the_domain():
    assert Domain(Kind.UNIT).contains(torch.tensor([0.0, 1.0]))
    assert Domain(Kind.PROBABILITY, 1).contains(torch.tensor([[0.0, 1.0]]))
    assert not Domain(Kind.UNIT).contains(torch.tensor([1.1]))
    assert not Domain(Kind.REAL).contains(torch.tensor([float("nan")]))


def test_the_largest_value_can_be_divided_by():
    assert largest(torch.tensor([-3.0, 1.0])) == 3.0
    assert largest(torch.zeros(2)) == 1.0
    assert largest(torch.zeros(0)) == 1.0
