from __future__ import annotations

import numpy as np
import pytest
import torch

from lossproof.terms.balance.schedules import (
    CosineRamp,
    ExponentialDecay,
    LinearRamp,
    Piecewise,
    ScheduledWeights,
)

STEPS = np.arange(60)


def of(schedule):
    return np.array([schedule(int(step)) for step in STEPS])


def test_a_linear_ramp_is_an_interpolation() -> None:
    np.testing.assert_allclose(
        of(LinearRamp(2.0, -1.0, steps=20, after=10)),
        np.interp(STEPS, [10, 30], [2.0, -1.0]),
        rtol=1e-12,
    )


def test_a_cosine_ramp_is_what_torch_anneals_a_learning_rate_by() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.5)
    rates = []
    for _ in range(21):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(of(CosineRamp(2.0, 0.5, steps=20))[:21], rates, rtol=1e-10)
    assert CosineRamp(2.0, 0.5, steps=20)(1000) == 0.5


def test_an_exponential_decay_halves_its_distance_to_the_end() -> None:
    expected = 0.25 + 0.75 * np.exp(-np.log(2) * STEPS / 7.5)
    np.testing.assert_allclose(of(ExponentialDecay(1.0, 7.5, end=0.25)), expected, rtol=1e-12)


def test_piecewise_holds_until_the_next_milestone() -> None:
    values = of(Piecewise({0: 1.0, 30: 0.1, 10: 5.0}))
    assert set(values[:10]) == {1.0}
    assert set(values[10:30]) == {5.0}
    assert set(values[30:]) == {0.1}


def run(balancer, count, **options):
    weights = []
    for _ in range(count):
        x = torch.ones(2, requires_grad=True)
        step = balancer.backward({"a": x[0], "b": 2 * x[1]}, [x], **options)
        weights.append(step.weights.tolist())
    return weights


def test_steps_count_from_zero_and_any_function_will_do() -> None:
    balancer = ScheduledWeights({"a": 3, "b": lambda step: step / 2})
    assert run(balancer, 4) == [[3, 0], [3, 0.5], [3, 1], [3, 1.5]]


def test_the_schedule_is_over_steps_also_where_it_is_looked_at_in_every_third() -> None:
    balancer = ScheduledWeights({"a": 1.0, "b": float}, every=3)
    assert [row[1] for row in run(balancer, 7)] == [0, 0, 0, 3, 3, 3, 6]


def test_a_resumed_run_goes_on_where_it_stopped() -> None:
    balancer = ScheduledWeights({"a": 1.0, "b": float})
    run(balancer, 5)
    resumed = ScheduledWeights({"a": 1.0, "b": float})
    resumed.load_state_dict(balancer.state_dict())
    assert run(resumed, 1) == [[1.0, 5.0]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LinearRamp(0.0, 1.0, steps=0), ValueError, "`steps` must be an integer of at le"),
        (lambda: CosineRamp(0.0, float("inf"), steps=1), ValueError, "`end` must be a finite"),
        (lambda: LinearRamp(0.0, 1.0, steps=2, after=-1), ValueError, "`after` must be an integer"),
        (lambda: ExponentialDecay(1.0, 0.0), ValueError, "`half_life` must be a number above 0"),
        (lambda: Piecewise([1.0]), TypeError, "`milestones` must be a mapping"),
        (lambda: Piecewise({3: 1.0}), ValueError, "`milestones` must say the weight from step 0"),
        (lambda: Piecewise({0: "x"}), TypeError, r"`milestones\[0\]` must be a finite number"),
        (lambda: ScheduledWeights([1.0]), TypeError, "`schedules` must be a mapping"),
        (lambda: ScheduledWeights({}), TypeError, "`schedules` must be a mapping"),
        (lambda: ScheduledWeights({"a": "x"}), TypeError, r"`schedules\['a'\]` must be a finite"),
        (lambda: run(ScheduledWeights({"a": lambda _: None, "b": 1.0}), 1), TypeError,
         "`the weight of 'a' at step 0` must be a finite number, got None"),
    ],
)  # fmt: skip
def test_wrong_schedules(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
