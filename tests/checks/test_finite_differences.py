"""Finite differences agree with derivatives known by hand, and see errors that are really there."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.finite_differences import (
    derivative,
    direction,
    extrapolate,
    judge,
    measured_noise,
    moved,
)

# Smooth functions of a tensor with their gradients, written by hand.
SMOOTH = {
    "square": (lambda x: x.pow(2).sum(), lambda x: 2 * x),
    "mean square": (lambda x: x.pow(2).mean(), lambda x: 2 * x / x.numel()),
    "log cosh": (
        lambda x: (torch.logaddexp(x, -x) - math.log(2)).sum(),
        lambda x: x.tanh(),
    ),
    "exponential": (lambda x: x.clamp(max=20).exp().sum(), lambda x: x.exp()),
    "logsumexp": (lambda x: torch.logsumexp(x.flatten(), 0), lambda x: x.softmax(0)),
    "norm": (lambda x: (x.pow(2).sum() + 1).sqrt(), lambda x: x / (x.pow(2).sum() + 1).sqrt()),
    "cauchy": (lambda x: x.pow(2).log1p().mean(), lambda x: 2 * x / (1 + x * x) / x.numel()),
    "sine": (lambda x: x.sin().sum(), lambda x: x.cos()),
    "quartic": (lambda x: x.pow(4).mean(), lambda x: 4 * x.pow(3) / x.numel()),
    "product": (lambda x: x.roll(1).mul(x).sum(), lambda x: x.roll(1) + x.roll(-1)),
}


def point_of(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def scalar(function, scale=1.0):
    return lambda point: (scale * float(function(point[0])), [])


smooth = st.sampled_from(list(SMOOTH))
scales = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
sizes = st.integers(2, 300)
seeds = st.integers(0, 10_000)


@given(smooth, scales, sizes, seeds)
def test_the_true_gradient_is_agreed_with(name, scale, size, seed):
    function, gradient = SMOOTH[name]
    x = point_of(size, seed)
    said = judge(scalar(function, scale), [x], 0, scale * gradient(x), seed=seed)
    assert [j.verdict for j in said] == ["agrees"] * 4, said


@given(smooth, scales, sizes, seeds, st.sampled_from(["factor", "sign", "noise", "one", "zero"]))
def test_a_relative_error_of_1e_4_is_seen(name, scale, size, seed, error):
    function, gradient = SMOOTH[name]
    x = point_of(size, seed)
    right = scale * gradient(x)
    norm = right.norm()
    wrong = {
        "factor": right * (1 + 1e-4),
        "sign": -right,
        "noise": right + 1e-4 * norm * direction(x, seed, 5) / math.sqrt(size),
        "one": right + 1e-4 * norm * torch.nn.functional.one_hot(torch.tensor(0), size),
        "zero": torch.zeros_like(right),
    }[error]
    said = judge(scalar(function, scale), [x], 0, wrong, seed=seed)
    # Four directions: an error in all coordinates may cancel along one of them, not along all.
    assert said[-1].verdict == "differs", said


@given(smooth, scales, sizes, seeds)
def test_the_derivative_along_a_direction(name, scale, size, seed):
    function, gradient = SMOOTH[name]
    x = point_of(size, seed)
    along = direction(x, seed)
    found = derivative(scalar(function, scale), [x], 0, along)
    expected = scale * float((gradient(x) * along).sum())
    size_of = scale * float(gradient(x).norm()) * float(along.norm())
    if found is None:  # the directional derivative happens to be near zero
        assert abs(expected) < 1e-2 * size_of
    else:
        assert abs(found - expected) <= 1e-5 * size_of


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_a_derivative_of_zero_is_known_beside_one_to_compare_with(offset):
    x = point_of(5, 0)
    value = lambda point: (offset, [])  # noqa: E731
    found = derivative(value, [x], 0, direction(x, 0), scale=max(offset, 1.0))
    assert found is not None
    assert abs(found) < 1e-6 * max(offset, 1.0)


@given(st.integers(1, 4), st.integers(0, 30), seeds, st.integers(0, 9))
def test_a_direction_has_no_small_elements(width, size, seed, tag):
    along = direction(torch.zeros(width, size, dtype=torch.float64), seed, tag)
    assert along.shape == (width, size)
    if size:
        assert along.abs().min() >= 0.5
        assert along.abs().max() < 1.5
    assert torch.equal(along, direction(torch.ones(width, size, dtype=torch.float64), seed, tag))


@given(seeds)
def test_a_direction_is_not_what_the_user_drew_with_the_same_seed(seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(64, generator=generator, dtype=torch.float64)
    for tag in range(3):
        along = direction(drawn, seed, tag)
        cosine = float(along @ drawn / along.norm() / drawn.norm())
        assert abs(cosine) < 0.7
        assert not torch.equal(along, direction(drawn, seed, tag + 1))


def test_drawing_a_direction_leaves_the_generator_of_the_process_alone():
    before = torch.get_rng_state()
    direction(torch.zeros(10), 3, 4)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ kinks, noise, domains


def with_branch(function, branch):
    return lambda point: (float(function(point[0])), [branch(point[0])])


@given(sizes, seeds)
def test_elements_near_a_kink_are_left_out(size, seed):
    x = point_of(size, seed)
    x[::2] *= 1e-9  # half of all elements sit on the kink of `abs`
    value = with_branch(lambda x: x.abs().sum(), lambda x: x > 0)
    said = judge(value, [x], 0, x.sign(), seed=seed)
    assert {j.verdict for j in said} == {"agrees"}
    assert all(j.masked > 0 for j in said if j.step > 1e-8)
    wrong = x.sign()
    wrong[1::2] *= 1.001
    assert judge(value, [x], 0, wrong, seed=seed)[-1].verdict == "differs"


def test_on_nothing_but_kinks_it_is_silent():
    x = torch.zeros(8, dtype=torch.float64)
    value = with_branch(lambda x: x.abs().sum(), lambda x: x > 0)
    assert {j.verdict for j in judge(value, [x], 0, torch.ones(8), seed=0)} == {"silent"}


@given(seeds, st.integers(2, 50), st.sampled_from([0.0, 1.0, 1000.0]))
def test_noise_of_float32_is_measured_and_forgiven(seed, size, offset):
    x = point_of(size, seed)

    def value(point):
        return float(offset + (point[0].float() ** 2).mean()), []

    noise = measured_noise(value, [x], 0, direction(x, seed))
    assert noise >= 2**-23 * value([x])[0]
    said = judge(value, [x], 0, 2 * x / size, seed=seed)
    assert "differs" not in {j.verdict for j in said}
    if not offset:
        assert judge(value, [x], 0, -2 * x / size, seed=seed)[-1].verdict == "differs"


def test_noise_of_float64_is_next_to_nothing():
    x = point_of(10, 0)
    noise = measured_noise(scalar(lambda x: x.exp().mean()), [x], 0, direction(x, 0))
    assert noise < 1e-13


@given(seeds)
def test_a_small_domain_is_stayed_in(seed):
    x = torch.rand(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = 1e-3 + x * 0.998

    def value(point):
        if (point[0] <= 0).any() or (point[0] >= 1).any():
            raise ValueError("a probability is wanted")
        return float(-(point[0].log()).mean()), []

    said = judge(value, [x], 0, -1 / x / 20, seed=seed)
    assert {j.verdict for j in said} == {"agrees"}
    assert judge(value, [x], 0, -1 / x / 19, seed=seed)[-1].verdict == "differs"


def test_an_edge_of_the_domain_is_silent():
    x = torch.zeros(3, dtype=torch.float64)

    def value(point):
        if (point[0] < 0).any():
            raise ValueError
        return float(point[0].sum()), []

    assert {j.verdict for j in judge(value, [x], 0, torch.ones(3), seed=0)} == {"silent"}
    assert derivative(value, [x], 0, direction(x, 0)) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_differs(bad):
    x = point_of(4, 0)
    gradient = 2 * x
    gradient[1] = bad
    said = judge(scalar(lambda x: x.pow(2).sum()), [x], 0, gradient, seed=0)
    assert said[-1].verdict == "differs"


def test_a_zero_gradient_of_a_constant_agrees():
    x = point_of(4, 0)
    said = judge(lambda point: (3.0, []), [x], 0, torch.zeros(4, dtype=torch.float64), seed=0)
    assert "differs" not in {j.verdict for j in said}


def test_one_wrong_coordinate_of_a_million_is_seen():
    x = point_of(1_000_000, 0)
    gradient = 2 * x / x.numel()
    gradient[123_456] += 0.1 * gradient.norm()
    value = scalar(lambda x: x.pow(2).mean())
    assert judge(value, [x], 0, gradient, seed=0, directions=2)[-1].verdict == "differs"


def test_a_sign_flip_at_a_million_elements_is_seen():
    x = point_of(1_000_000, 1)
    value = scalar(lambda x: x.abs().add(1).log().mean())
    gradient = x.sign() / (1 + x.abs()) / x.numel()
    assert judge(value, [x], 0, -gradient, seed=0, directions=1)[-1].verdict == "differs"


# ------------------------------------------------------------------ the arithmetic


@given(st.floats(0.5, 2), st.floats(-3, 3), st.floats(-3, 3))
def test_extrapolation_is_exact_for_even_errors_of_two_orders(true, second, fourth):
    quotients = [true + second * h**2 + fourth * h**4 for h in (0.4, 0.2, 0.1)]
    best, error = extrapolate(quotients)
    assert abs(best - true) < 1e-12
    assert error >= abs(best - true) - 1e-15


def test_one_quotient_has_no_error_bound():
    assert extrapolate([2.0]) == (2.0, math.inf)


def test_moved_shifts_one_block_and_copies():
    a, b = torch.zeros(2), torch.zeros(3)
    there = moved([a, b], 1, torch.ones(3))
    assert torch.equal(there[0], torch.zeros(2))
    assert torch.equal(there[1], torch.ones(3))
    assert torch.equal(b, torch.zeros(3))


def test_a_point_is_called_once_for_its_branches_and_a_step_once_for_its_ends():
    point, called = [torch.linspace(1, 2, 6, dtype=torch.float64)], []

    def value(at):
        called.append(tuple(at[0].tolist()))
        return float(at[0].pow(2).sum()), [at[0] > 0]

    judge(value, point, 0, 2 * point[0], seed=3)
    # The noise is measured from the point on; its branches are asked for once more.
    assert called.count(tuple(point[0].tolist())) == 2
    assert len(called) - 1 == len(set(called))
