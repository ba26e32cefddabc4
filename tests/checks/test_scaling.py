"""How a quantity grows with the number of copies of the batch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.checks.scaling import COPIES, growth, scaling_of

PART = st.floats(-10, 10).filter(lambda x: x == 0 or abs(x) > 1e-2)


@settings(max_examples=50, deadline=None)
@given(PART, PART, PART)
def test_a_mixture_is_taken_apart(constant, linear, inverse):
    vector = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    measured = [vector * (constant + linear * k + inverse / k) for k in COPIES]
    found = growth(measured)
    size = max(float(part.norm()) for part in measured)
    assert found.exact
    for part, weight in ((found.constant, constant), (found.linear, linear)):
        expected = abs(weight) * float(vector.norm()) / size if size else 0.0
        assert part == pytest.approx(expected, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("power", [0.5, -0.5, 2.0, -1.0, 1.0, 0.0])
def test_a_power_is_told(power):
    found = growth([torch.tensor([3.0, 1.0], dtype=torch.float64) * k**power for k in COPIES])
    assert found.power == pytest.approx(power)
    assert found.exact is (power in (0, 1, -1))


def test_what_is_no_mixture_is_no_mixture():
    found = growth([torch.tensor([1.0 + k]).double().log() for k in COPIES])
    assert not found.exact
    assert found.power is None
    assert not found.is_only("constant", "linear", "inverse")


PAIR = (torch.randn(4, 3), torch.randn(4, 3))


@pytest.mark.parametrize(
    ("loss", "part"),
    [
        (F.mse_loss, "constant"),
        (lambda input, target: ((input - target) ** 2).sum(), "linear"),
        (lambda input, target: F.mse_loss(input, target) / len(input), "inverse"),
        (lambda input, target: (input - target).abs(), "constant"),
    ],
)
def test_value_and_gradient_of_a_loss(loss, part, examination):
    found = scaling_of(examination(loss, *PAIR))
    assert found.is_only(part)
    assert found.parts == {part}


def test_the_gradient_for_a_shared_input_is_not_shared_out(examination):
    def linear(weight, x, y):
        return F.mse_loss(x @ weight, y)

    found = scaling_of(examination(linear, torch.randn(3), torch.randn(5, 3), torch.randn(5)))
    assert found.is_only("constant")


def test_no_other_batch_no_scaling(examination):
    assert scaling_of(examination(torch.square, torch.tensor(2.0))) is None
    assert scaling_of(examination(lambda input: (-input.abs()).log().sum(), PAIR[0])) is None
