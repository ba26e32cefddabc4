"""The survival losses against loops over risk sets, and where other libraries go wrong."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.losses import cox_ph_loss, discrete_hazard_nll_loss, weibull_nll_loss
from lossproof.write.cumulative import log_sum_following

TIES = ("efron", "breslow")
# The first use of forward mode loads a part of torch that warns.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def draw(seed, n=20, times=6, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    hazard = torch.randn(n, generator=generator, dtype=torch.float64) * scale
    time = torch.randint(0, times, (n,), generator=generator).double()
    event = torch.rand(n, generator=generator) < 0.6
    event[0] = True
    return hazard, time, event


def grad(loss, input, *args, **options):
    input = input.detach().clone().requires_grad_()
    value = loss(input, *args, **options)
    (gradient,) = torch.autograd.grad(value, input)
    return value.detach(), gradient


def cox_loop(hazard, time, event, ties, weight=None, risk_weight=None):
    """The negative log-likelihood, each time and each risk set by itself, in 50 digits."""
    weight = [1] * len(hazard) if weight is None else weight
    risk_weight = [1] * len(hazard) if risk_weight is None else risk_weight
    h = [w * mpmath.exp(x) for x, w in zip(hazard, risk_weight, strict=True)]
    total = mpmath.mpf(0)
    for t in sorted(set(time)):
        dead = [i for i in range(len(h)) if time[i] == t and event[i]]
        at_risk = mpmath.fsum(h[i] for i in range(len(h)) if time[i] >= t)
        tied = mpmath.fsum(h[i] for i in dead)
        for r in range(len(dead)):
            gone = mpmath.mpf(r) / len(dead) * tied if ties == "efron" else 0
            mean_weight = mpmath.fsum(weight[i] for i in dead) / len(dead)
            total += mean_weight * mpmath.log(at_risk - gone)
        total -= mpmath.fsum(weight[i] * mpmath.mpf(hazard[i]) for i in dead)
    return float(total)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
def test_cox_equals_the_loop(ties, scale):
    with mpmath.workdps(50):
        for seed in range(5):
            hazard, time, event = draw(seed, scale=scale)
            expected = cox_loop(hazard.tolist(), time.tolist(), event.tolist(), ties)
            value = cox_ph_loss(hazard, time, event, ties=ties, reduction="sum")
            assert value.item() == pytest.approx(expected, rel=1e-11)
            mean = cox_ph_loss(hazard, time, event, ties=ties)
            assert mean.item() == pytest.approx(expected / int(event.sum()), rel=1e-11)


def test_a_worked_example():
    """Six subjects, two of them with their events at time 6, the third censored there."""
    hazard = torch.log(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64))
    time = torch.tensor([1, 6, 6, 6, 8, 9])
    event = torch.tensor([1, 1, 0, 1, 0, 1])
    efron = cox_ph_loss(hazard, time, event, reduction="sum")
    breslow = cox_ph_loss(hazard, time, event, ties="breslow", reduction="sum")
    assert efron.item() == pytest.approx(math.log(21 * (20 / 2) * (17 / 4) * 1))
    assert breslow.item() == pytest.approx(math.log(21 * (20 / 2) * (20 / 4) * 1))


@pytest.mark.parametrize("ties", TIES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_rows_does_not_matter(ties, seed):
    hazard, time, event = draw(seed, n=12, times=3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed + 1))
    values = cox_ph_loss(hazard, time, event, ties=ties, reduction="none")
    moved = cox_ph_loss(hazard[order], time[order], event[order], ties=ties, reduction="none")
    torch.testing.assert_close(moved, values[order])


def test_who_is_lost_at_the_time_of_an_event_was_at_risk():
    """Else the loss would depend on which of the two rows stands first."""
    hazard, time, event = torch.tensor([0.0, 2.0]), torch.tensor([3.0, 3.0]), torch.tensor([1, 0])
    expected = math.log(1 + math.exp(2))
    assert cox_ph_loss(hazard, time, event).item() == pytest.approx(expected)
    swapped = cox_ph_loss(hazard.flip(0), time, event.flip(0))
    assert swapped.item() == pytest.approx(expected)


@pytest.mark.parametrize("spread", [10, 20, 1e4])
def test_well_ordered_hazards(spread):
    """A floor inside the logarithm gives 7.82 instead of 0.0029 at a spread of 20."""
    hazard = torch.linspace(spread, -spread, 8)
    with mpmath.workdps(50):
        expected = cox_loop(hazard.tolist(), list(range(8)), [1] * 8, "efron") / 8
    value, gradient = grad(cox_ph_loss, hazard, torch.arange(8), torch.ones(8))
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-40)
    assert gradient[0] <= 0 <= gradient[-1]


def test_the_float32_gradient_at_large_hazards():
    hazard, time, event = draw(3, n=30, scale=1e4)
    for ties in TIES:
        found = grad(cox_ph_loss, hazard.float(), time, event, ties=ties)
        wanted = grad(cox_ph_loss, hazard.float().double(), time, event, ties=ties)
        assert found[0].dtype == torch.float32
        torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(found[1].double(), wanted[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ties", TIES)
def test_strata_are_compared_by_themselves(ties):
    hazard, time, event = draw(7, n=30, scale=30.0)
    strata = torch.randint(-2, 3, (30,), generator=torch.Generator().manual_seed(0))
    apart = sum(
        cox_ph_loss(hazard[s], time[s], event[s], ties=ties, reduction="sum")
        for s in (strata == group for group in strata.unique())
    )
    together = cox_ph_loss(hazard, time, event, strata, ties=ties, reduction="sum")
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("stratified", [False, True])
def test_masked_subjects_are_not_there(ties, stratified):
    hazard, time, event = draw(9, n=24)
    strata = torch.randint(0, 3, (24,)) if stratified else None
    mask = torch.rand(24, generator=torch.Generator().manual_seed(4)) < 0.6
    spoiled = torch.where(mask, hazard, math.nan), torch.where(mask, time, math.nan), event
    value, gradient = grad(cox_ph_loss, *spoiled, strata, ties=ties, mask=mask)
    kept = [t[mask] for t in (hazard, time, event)]
    wanted = grad(cox_ph_loss, *kept, None if strata is None else strata[mask], ties=ties)
    torch.testing.assert_close((value, gradient[mask]), wanted)
    assert not gradient[~mask].any()


def test_weights_that_count_in_the_risk_sets_as_in_r():
    hazard, time, event = draw(5)
    weight = torch.rand(20, dtype=torch.float64) + 0.5
    with mpmath.workdps(30):
        lists = [t.tolist() for t in (hazard, time, event)]
        expected = cox_loop(*lists, "efron", weight.tolist(), weight.tolist())
    shifted = cox_ph_loss(hazard + weight.log(), time, event, weight=weight, reduction="sum")
    constant = (weight * weight.log())[event].sum()
    assert (shifted + constant).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_batch_without_events(n):
    value, gradient = grad(cox_ph_loss, torch.ones(n), torch.ones(n), torch.zeros(n))
    assert value == 0
    assert not gradient.any()


@forward_mode
@pytest.mark.parametrize("ties", TIES)
def test_second_derivatives_with_ties_and_censoring(ties):
    hazard, time, event = draw(2, n=8, times=3)
    strata = torch.tensor([0, 1] * 4)

    def loss(x):
        return cox_ph_loss(x, time, event, strata, ties=ties)

    assert torch.autograd.gradcheck(loss, hazard.requires_grad_(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, hazard)
    hessian = torch.func.hessian(loss)(hazard.detach())
    assert torch.linalg.eigvalsh(hessian).min() > -1e-12  # convex


def test_a_hundred_thousand_subjects():
    hazard, time, event = draw(0, n=100_000, times=1000)
    strata = torch.randint(0, 50, (100_000,))
    value, gradient = grad(cox_ph_loss, hazard.float(), time, event, strata)
    assert torch.isfinite(value)
    assert gradient.double().sum().abs() < 1e-6  # the loss does not see a common shift


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": torch.tensor([-1.0, 1.0])}, "`time` must hold numbers of at least 0, got -1"),
        ({"time": torch.tensor([math.nan, 1.0])}, "`time` must hold finite numbers, got nan"),
        ({"event": torch.tensor([0, 2])}, "`event` must hold 0 or 1, got 2"),
        ({"input": torch.zeros(2, 1)}, r"`input` must have the shape \(N,\), got \[2, 1\]"),
        ({"event": torch.ones(2, 1)}, r"must have the same shape, got \[2\] and \[2, 1\]"),
        ({"strata": torch.zeros(2)}, "`strata` must be a tensor of integers"),
        ({"ties": "exact"}, "`ties` must be one of 'efron', 'breslow', got 'exact'"),
    ],
)
def test_wrong_calls(change, message):
    call = {"input": torch.zeros(2), "time": torch.ones(2), "event": torch.ones(2)}
    with pytest.raises((ValueError, TypeError), match=message):
        cox_ph_loss(**{**call, **change})


# ------------------------------------------------------------------ log of sums over what follows
@forward_mode
def test_log_sum_following_has_every_derivative():
    scores = torch.tensor([-300.0, 2.0, 900.0, 0.5, -1.0], dtype=torch.float64)
    factor = torch.tensor([1.0, 0.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    near = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    wanted = torch.stack([near[:, i:].logsumexp(-1) for i in range(5)], -1)
    torch.testing.assert_close(log_sum_following(near), wanted)
    torch.autograd.gradcheck(log_sum_following, near, check_forward_ad=True)
    torch.autograd.gradgradcheck(lambda x: log_sum_following(x) * factor, near)
    _, tangent = torch.func.jvp(log_sum_following, (scores,), (torch.ones(5).double(),))
    torch.testing.assert_close(tangent, torch.ones(5).double())


# ------------------------------------------------------------------ discrete hazards
def test_discrete_hazard_equals_the_likelihood():
    logits = torch.randn(12, 5, dtype=torch.float64) * 3
    time, event = torch.randint(0, 5, (12,)), torch.randint(0, 2, (12,))
    values = discrete_hazard_nll_loss(logits, time, event, reduction="none")
    for x, t, e, v in zip(logits, time, event, values, strict=True):
        h = 1 / (1 + np.exp(-x.numpy()))
        likelihood = np.prod(1 - h[:t]) * (h[t] if e else 1 - h[t])
        assert v.item() == pytest.approx(-math.log(likelihood))


def test_the_likelihoods_of_all_outcomes_add_up_to_one():
    logits = torch.randn(1, 5, dtype=torch.float64).expand(6, 5)
    time, event = torch.tensor([0, 1, 2, 3, 4, 4]), torch.tensor([1, 1, 1, 1, 1, 0])
    values = discrete_hazard_nll_loss(logits, time, event, reduction="none")
    assert torch.exp(-values).sum().item() == pytest.approx(1)


def test_intervals_that_were_not_seen_do_not_count():
    logits = torch.tensor([[1.0, 2.0, math.nan], [1.0, 2.0, math.inf]])
    time, event = torch.tensor([1, 1]), torch.tensor([True, False])
    value, gradient = grad(discrete_hazard_nll_loss, logits, time, event)
    assert torch.isfinite(value)
    assert not gradient[:, 2].any()


def test_a_confident_mistake_keeps_its_gradient():
    value, gradient = grad(
        discrete_hazard_nll_loss, torch.tensor([[1e4, -1e4]]), torch.tensor([1]), torch.ones(1)
    )
    assert value == 2e4
    assert gradient.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (torch.tensor([0, 5]), "`time` must hold classes from 0 to 4, got 5"),
        (torch.tensor([0.0, 1.0]), "`time` must be a tensor of integers"),
        (torch.tensor([[0], [1]]), r"`time` must have the shape .* \[2\], got \[2, 1\]"),
    ],
)
def test_wrong_intervals(time, message):
    with pytest.raises((ValueError, TypeError), match=message):
        discrete_hazard_nll_loss(torch.zeros(2, 5), time, torch.ones(2))


# ------------------------------------------------------------------ Weibull
def test_weibull_is_torchs_distribution():
    log_scale, log_shape = torch.randn(2, 40, dtype=torch.float64)
    time = torch.rand(40, dtype=torch.float64) * 3 + 0.01
    event = torch.rand(40) < 0.5
    law = torch.distributions.Weibull(log_scale.exp(), log_shape.exp())
    survived = (time / log_scale.exp()) ** log_shape.exp()
    wanted = torch.where(event, -law.log_prob(time), survived)
    found = weibull_nll_loss(log_scale, time, event, log_shape, reduction="none")
    torch.testing.assert_close(found, wanted)


def test_shape_one_is_the_exponential_distribution():
    log_scale, time = torch.randn(10, dtype=torch.float64), torch.rand(10).double() + 0.1
    law = torch.distributions.Exponential(torch.exp(-log_scale))
    found = weibull_nll_loss(log_scale, time, torch.ones(10), reduction="none")
    torch.testing.assert_close(found, -law.log_prob(time))


def test_the_maximum_likelihood_of_the_exponential_is_time_by_events():
    time, event = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([1, 0, 1, 1])
    best = torch.log(time.sum() / event.sum()).expand(4)
    _, gradient = grad(weibull_nll_loss, best, time, event)
    assert gradient.sum().abs() < 1e-6


def test_only_censored_subjects():
    value, gradient = grad(weibull_nll_loss, torch.zeros(3), torch.ones(3), torch.zeros(3))
    assert value == 1
    torch.testing.assert_close(gradient, torch.full((3,), -1 / 3))


def test_masked_subjects_may_have_no_time():
    mask, time = torch.tensor([True, False, False]), torch.tensor([2.0, math.nan, -1.0])
    value, gradient = grad(
        weibull_nll_loss, torch.tensor([0.0, math.nan, 0.0]), time, torch.ones(3), mask=mask
    )
    assert value == 2
    assert gradient.tolist() == [-1.0, 0.0, 0.0]


def test_time_zero_has_no_likelihood():
    with pytest.raises(ValueError, match="`time` must hold numbers above 0, got 0"):
        weibull_nll_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.ones(2))
