"""Steps whose numbers arrive later, as on an accelerator: here on a processor that pretends."""

import pytest
import torch
from torch import nn

import lossproof
from lossproof.watcher import AlarmKind, observation, optimizers
from lossproof.watcher.reading import PATIENCE, Reading


@pytest.fixture(autouse=True)
def device_that_runs_ahead(monkeypatch):
    """Every number has to be waited for."""
    for module in (observation, optimizers):
        monkeypatch.setattr(module, "runs_ahead", lambda tensor: True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(count, size=16):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(size, 3, generator=generator)
        yield x, x.sum(1, keepdim=True)


def train(model, compute, data):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for x, y in data:
        optimizer.zero_grad()
        compute(x, y).backward()
        optimizer.step()


def test_a_reading_is_ready_after_a_while():
    reading = Reading(torch.tensor([1.0, 2.0]))
    assert [reading.ready() for _ in range(PATIENCE + 1)] == [False] * PATIENCE + [True]
    assert reading.numbers() == [1.0, 2.0]


def test_figures_arrive_in_their_order_and_the_last_at_the_end():
    model, values, norms = network(), [], []
    with lossproof.watch(model, share=1.0) as guard:
        compute = guard.wrap(lambda x, y: (model(x) - y).square().mean())

        def seen(x, y):
            loss = compute(x, y)
            grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            values.append(loss.item())
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
            return loss

        train(model, seen, batches(9))
        assert len(guard.history) < 9
    assert [step.step for step in guard.history] == list(range(1, 10))
    assert [step.values["loss"] for step in guard.history] == pytest.approx(values, rel=1e-6)
    assert [step.norm for step in guard.history] == pytest.approx(norms, rel=1e-5)
    assert guard.alarms == []


def bad_batches():
    """A good batch four times, one with a sample at which the loss has no value, and good ones."""
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    good = torch.zeros(16, 1)
    bad = good.clone()
    bad[5] = 1e9
    return [(x, good)] * 4 + [(x, bad)] + [(x, good)] * 6


@pytest.mark.parametrize("memory", [256 * 2**20, 0])
def test_a_step_that_went_wrong_is_replayed_with_its_own_parameters(memory):
    model, alarms = network(), []
    started = {}

    def loss_of(x, y):
        return (model(x) - y + 100).log().mean()  # <-- here

    with lossproof.watch(model, on_alarm=alarms.append, share=1.0, memory=memory) as guard:
        compute = guard.wrap(loss_of)

        def step(x, y):
            if float(y.max()) > 0:
                started.update({n: p.detach().clone() for n, p in model.named_parameters()})
            return compute(x, y)

        train(model, step, bad_batches())
        after = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert guard.retired is None
    (alarm,) = alarms
    assert (alarm.kind, alarm.step) == (AlarmKind.NON_FINITE_LOSS, 5)
    assert all(torch.isfinite(one).all() for one in started.values())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.isnan(), after[name].isnan()), "the training goes on as it was"
    if memory:
        assert alarm.diagnosis.operation == "log"
        assert alarm.diagnosis.samples == (5,)
        assert "# <-- here" in alarm.diagnosis.location.source
        assert alarm.diagnosis.caveat is None
    else:
        assert "updated since" in alarm.diagnosis.caveat


def test_an_explosion_is_told_later_and_says_that_the_parameters_have_moved_on():
    model, alarms = network(), []
    with lossproof.watch(model, on_alarm=alarms.append, share=1.0) as guard:
        compute = guard.wrap(lambda x, y: (model(x) - y).square().mean())
        scale = iter([1.0] * 6 + [1e5] + [1.0] * 6)
        train(model, compute, [(x, y * next(scale)) for x, y in batches(13)])
    assert guard.retired is None
    assert AlarmKind.EXPLODING_LOSS in [alarm.kind for alarm in alarms]
    assert all("updated since" in alarm.diagnosis.caveat for alarm in alarms)
    assert {alarm.step for alarm in alarms} >= {7}
