import pytest

from lossproof.watcher import budget as module
from lossproof.watcher.budget import Budget


@pytest.fixture
def clock(monkeypatch):
    """A clock that is put forward by hand."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def run(clock, budget, steps, *, step, base, look, first=1):
    """Steps of a length, in which the guard takes its base and, when it is due, a close look."""
    spent = 0.0
    for number in range(first, first + steps):
        clock.now += step
        budget.spent += base if budget.timed else 0.0
        spent += base
        if number >= budget.next["norms"]:
            clock.now += look
            budget.spent += look if budget.timed else 0.0
            budget.looked("norms", number, look)
            spent += look
        clock.now += base
        budget.stepped()
    return spent / (steps * step)


@pytest.mark.parametrize(("step", "look"), [(1e-3, 1e-5), (1e-3, 2e-4), (2e-4, 5e-4), (1.0, 1e-3)])
def test_the_guard_stays_within_its_share(clock, step, look):
    budget = Budget(0.02, ("norms",))
    run(clock, budget, 200, step=step, base=step / 200, look=look)
    assert run(clock, budget, 3000, step=step, base=step / 200, look=look, first=201) < 0.021
    assert budget.cost < 0.021
    assert budget.base == pytest.approx(step / 200)


def test_cheap_looks_are_taken_in_every_step(clock):
    budget = Budget(0.02, ("norms",))
    run(clock, budget, 100, step=1e-2, base=1e-6, look=1e-5)
    assert budget.every["norms"] == 1


def test_where_nothing_is_left_of_the_share_looks_are_rare_but_taken(clock):
    budget = Budget(0.02, ("norms",))
    run(clock, budget, 100, step=1e-4, base=1e-5, look=1e-5)
    assert budget.every["norms"] == module.MOST


def test_pauses_belong_to_no_step(clock):
    budget = Budget(0.02, ("norms",))
    for _ in range(100):
        clock.now += 1e-3
        budget.spent += 1e-6 if budget.timed else 0.0
        clock.now += 5.0
        budget.spent += 5.0 if budget.timed else 0.0
        budget.paused(5.0)
        budget.stepped()
    assert budget.step == pytest.approx(1e-3, rel=1e-6)
    assert budget.base == pytest.approx(1e-6, rel=1e-3)


def test_an_evaluation_in_between_is_no_step(clock):
    budget = Budget(0.02, ("norms",))
    run(clock, budget, 200, step=1e-3, base=1e-5, look=1e-5)
    before = budget.step
    clock.now += 60.0
    run(clock, budget, 200, step=1e-3, base=1e-5, look=1e-5, first=201)
    assert budget.step == pytest.approx(before, rel=0.05)
