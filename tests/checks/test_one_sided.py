"""One-sided derivatives: against functions whose derivatives are known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.one_sided import Slopes, agrees_quickly, one_sided


def along(function, x):
    return lambda shift: function(x + shift)


SMOOTH = {
    "square": (lambda x: x * x, lambda x: 2 * x),
    "exp": (math.exp, math.exp),
    "sin": (math.sin, math.cos),
    "log-cosh": (lambda x: math.log(math.cosh(x)), math.tanh),
}


@pytest.mark.parametrize("name", SMOOTH)
@given(x=st.floats(-3, 3))
def test_both_sides_of_a_smooth_function_are_its_derivative(name, x):
    function, derivative = SMOOTH[name]
    slopes = one_sided(along(function, x), function(x), 1.0)
    assert slopes is not None
    truth = derivative(x)
    assert math.isclose(slopes.left, truth, rel_tol=1e-6, abs_tol=1e-8)
    assert math.isclose(slopes.right, truth, rel_tol=1e-6, abs_tol=1e-8)
    assert not slopes.is_kink
    assert slopes.excess(truth) <= slopes.error + 1e-8


@given(left=st.floats(-5, 5), right=st.floats(-5, 5))
def test_the_sides_of_a_kink(left, right):
    slopes = one_sided(lambda shift: (right if shift > 0 else left) * shift, 0.0, 1.0)
    assert slopes is not None
    assert math.isclose(slopes.left, left, abs_tol=1e-9)
    assert math.isclose(slopes.right, right, abs_tol=1e-9)


@given(a=st.floats(-5, 5), b=st.floats(-5, 5), share=st.floats(0, 1))
def test_what_lies_between_is_a_subgradient(a, b, share):
    slopes = Slopes(a, b, 0.0)
    assert slopes.excess(a + share * (b - a)) <= 1e-12
    assert slopes.excess(max(a, b) + 1) == pytest.approx(1)
    assert slopes.excess(min(a, b) - 1) == pytest.approx(1)


def test_a_missing_side_leaves_the_gradient_free_on_that_side():
    def root(shift):  # only defined to the right
        return shift if shift >= 0 else math.nan

    slopes = one_sided(root, 0.0, 1.0)
    assert slopes.left == -math.inf
    assert slopes.excess(-100.0) == 0.0
    assert slopes.excess(1.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "function",
    [
        lambda shift: math.sqrt(abs(shift)),
        lambda shift: shift * math.log(abs(shift)) if shift else 0.0,
        lambda shift: float(shift > 0),
    ],
)
def test_where_nothing_converges_nothing_is_said(function):
    assert one_sided(function, 0.0, 1.0) is None


def test_a_staircase_of_rounding_says_nothing():
    def stairs(shift):
        return 3 * shift - 0.05 * math.floor(60 * shift)

    assert one_sided(stairs, 0.0, 1.0) is None


def test_two_calls_acquit_a_right_gradient_and_no_wrong_one():
    assert agrees_quickly(along(math.exp, 0.5), math.exp(0.5), math.exp(0.5), 1.0) is not None
    assert agrees_quickly(along(math.exp, 0.5), math.exp(0.5), 1.01 * math.exp(0.5), 1.0) is None
    assert agrees_quickly(abs, 0.0, 0.7, 1.0) is not None
    assert agrees_quickly(abs, 0.0, 1.1, 1.0) is None
    assert agrees_quickly(lambda shift: math.nan, 0.0, 0.0, 1.0) is None
