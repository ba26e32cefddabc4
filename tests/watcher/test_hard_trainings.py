"""Trainings in which a guard could do harm, or say what is not so."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossproof
from lossproof.watcher import AlarmKind


@pytest.fixture
def alarms():
    return []


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def train(model, compute, steps=6, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for number in range(steps):
        x = torch.randn(6, 3, generator=generator)
        optimizer.zero_grad()
        compute(x, x.sum(1, keepdim=True), number).backward()
        optimizer.step()


def test_a_batch_of_inference_mode(alarms):
    model = network()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(lambda x, y, teacher: (model(x) - y).square().mean())
        with torch.inference_mode():
            teacher = torch.randn(6, 1)
        train(model, lambda x, y, _: compute(x, y, teacher))
    assert guard.retired is None
    assert len(guard.history) == 6


def test_a_loss_of_no_samples_is_not_nan(alarms):
    model = network()
    with lossproof.watch(model, on_alarm=alarms.append, share=1.0) as guard:
        each = guard.wrap(lambda x, y, n: (model(x) - y).square()[: 0 if n == 3 else None])
        train(model, lambda *batch: each(*batch).sum())
    assert alarms == []


def test_an_evaluation_with_gradients_is_one(alarms):
    model, criterion = network(), nn.MSELoss()
    with lossproof.watch(model, criterion, on_alarm=alarms.append) as guard:
        values = guard.wrap(lambda x: model(x).mean(), "value")
        train(model, lambda x, y, _: criterion(model(x), y))
        model.eval()
        for _ in range(3):
            criterion(model(torch.randn(4, 3)), torch.full((4, 1), float("nan")))
            values(torch.randn(4, 3))
        assert guard._seen.tape.held.calls == []
    assert alarms == []
    assert "watch/value" not in guard.as_dict()


def test_a_training_in_evaluation_mode_is_seen(alarms):
    model = network().eval()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(lambda x, y, n: (model(x) - y).square().mean() / (n != 4))
        train(model, compute)
    assert [alarm.kind for alarm in alarms] == [AlarmKind.NON_FINITE_LOSS]


def test_two_optimizers_take_one_step(alarms):
    model = network()
    first = torch.optim.SGD(model[0].parameters(), lr=1e-2)
    second = torch.optim.Adam(model[2].parameters(), lr=1e-3)
    with lossproof.watch(model, on_alarm=alarms.append, share=1.0) as guard:
        loss = guard.wrap(lambda x: F.relu(model(x) - 100).mean())
        for _ in range(6):
            model.zero_grad()
            loss(torch.randn(4, 3)).backward()
            first.step()
            second.step()
    assert alarms == []  # a loss of 0 has no gradient, whichever optimizer looks
    assert [step.step for step in guard.history] == list(range(1, 7))


def test_the_norm_is_that_of_all_optimizers():
    model = network()
    optimizers = [torch.optim.SGD(model[k].parameters(), lr=1e-2) for k in (0, 2)]
    with lossproof.watch(model, share=1.0) as guard:
        loss = guard.wrap(lambda x: model(x).square().mean())
        loss(torch.randn(4, 3)).backward()
        norm = torch.cat([one.grad.flatten() for one in model.parameters()]).double().norm()
        for one in optimizers:
            one.step()
    (figures,) = guard.history
    assert figures.norm == pytest.approx(float(norm), rel=1e-6)


def test_an_optimizer_within_an_optimizer_takes_one_step():
    class Wrapping(torch.optim.Optimizer):
        def __init__(self, inner):
            self.inner = inner
            super().__init__(inner.param_groups, {})

        def step(self, closure=None):
            return self.inner.step(closure)

    model = network()
    with lossproof.watch(model, share=1.0) as guard:
        compute = guard.wrap(lambda x, y, _: (model(x) - y).square().mean())
        inner = torch.optim.SGD(model.parameters(), lr=1e-2)
        train(model, compute, optimizer=Wrapping(inner))
    assert [step.step for step in guard.history] == list(range(1, 7))
    with lossproof.watch(model, share=1.0) as alone:
        compute = alone.wrap(lambda x, y, _: (model(x) - y).square().mean())
        train(model, compute, steps=1, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
        norm = torch.cat([one.grad.flatten() for one in model.parameters()]).double().norm()
    assert alone.history[-1].norm == pytest.approx(float(norm), rel=1e-6)


def test_a_step_that_raises_is_followed_by_others():
    class Failing(torch.optim.SGD):
        fails = False

        @torch.no_grad()
        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("out of luck")
            return super().step(closure)

    model = network()
    first = Failing(model.parameters(), lr=1e-2)
    with lossproof.watch(model) as guard:
        compute = guard.wrap(lambda x, y, _: (model(x) - y).square().mean())
        first.fails = True
        with pytest.raises(RuntimeError, match="out of luck"):
            train(model, compute, optimizer=first)
        train(model, compute, steps=3)
    assert [step.step for step in guard.history] == [1, 2, 3]  # the first was taken in the end


def test_hooks_of_the_backward_pass_are_called_as_often_as_without_a_guard(alarms):
    calls = []
    model = network()
    model[2].register_full_backward_hook(lambda *args: calls.append("module"))
    model[0].weight.register_hook(lambda grad: calls.append("parameter"))
    with lossproof.watch(model, on_alarm=alarms.append, share=1.0) as guard:
        compute = guard.wrap(
            lambda x, y, n: {"fit": (model(x) - y).square().mean(), "size": y.mean() / (n != 4)}
        )
        train(model, lambda *batch: sum(compute(*batch).values()))
    assert alarms
    assert calls.count("module") == calls.count("parameter") == 6


def test_what_a_loss_writes_and_saves_can_still_be_differentiated(alarms):
    class Normalised(nn.Module):
        """By a running average, which lies in a buffer and is written in every step."""

        def __init__(self):
            super().__init__()
            self.register_buffer("average", torch.ones(()))
            self.register_buffer("spread", torch.ones(1).expand(4))  # which nobody can write to
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, prediction, target, number):
            loss = (prediction - target).square().mean()
            self.average.mul_(0.9).add_(0.1 * loss.detach())
            with torch.no_grad():
                self.scale.clamp_(min=0.5)
            return self.scale * loss / self.average * self.spread.mean() / (number != 3)

    def trained(watched):
        model, criterion = network(), Normalised()
        guard = lossproof.watch(model, criterion, on_alarm=alarms.append, share=1.0)
        if watched:
            guard.start()
        optimizer = torch.optim.SGD([*model.parameters(), criterion.scale], lr=1e-2)
        for number in range(5):
            x = torch.randn(6, 3, generator=torch.Generator().manual_seed(number))
            optimizer.zero_grad()
            criterion(model(x), x.sum(1, keepdim=True), number).backward()
            if number != 3:
                optimizer.step()
        guard.stop()
        return [*model.parameters(), *criterion.state_dict().values()]

    for one, other in zip(trained(True), trained(False), strict=True):
        assert torch.equal(one, other)
    (alarm,) = alarms
    assert alarm.diagnosis.operation == "div"


def test_two_guards_of_one_model_see_the_training_alone():
    model, criterion, first, second = network(), nn.MSELoss(), [], []
    with (
        lossproof.watch(model, criterion, on_alarm=first.append) as one,
        lossproof.watch(model, criterion, on_alarm=second.append) as other,
    ):
        out = model(torch.randn(6, 3))
        criterion(out, torch.full((6, 1), float("nan")))
        calls = [len(guard._seen.tape.held.calls) for guard in (one, other)]
    assert calls == [2, 2]
    assert len(first) == len(second) == 1


def test_a_copy_trains_alone(alarms):
    model = network()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(lambda x, y, _: (model(x) - y).square().mean())
        average = copy.deepcopy(model)
        train(average, lambda x, y, _: (average(x) - y).square().mean() * float("nan"))
        train(model, compute)
    assert alarms == []
    assert guard.history[-1].step == 6


def test_calls_of_the_model_without_a_loss_are_let_go(alarms):
    model = network()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(lambda x, y, n: (model(x) - y).square().mean() / (n != 0))
        held = []
        for _ in range(100):  # as an agent plays
            model(torch.randn(4, 3))
            held.append(len(guard._seen.tape.held.calls))
        train(model, compute, steps=2)
    assert max(held) == held[-1] == 32
    assert alarms[0].diagnosis.operation == "div"
    assert "no more than 32" in alarms[0].diagnosis.caveat


def test_terms_of_one_name_in_two_groups_are_two_terms(alarms):
    model = network()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(
            lambda x, y, n: {
                "fine": {"fit": (model(x) - y).square().mean() / (n != 4)},
                "coarse": {"fit": 1e6 * (model(x) - y).square().mean()},
            }
        )
        train(model, lambda *batch: compute(*batch)["fine"]["fit"])
    assert set(guard.history[0].values) == {"fine/fit", "coarse/fit"}
    (alarm,) = alarms
    assert (alarm.term, alarm.diagnosis.operation) == ("fine/fit", "div")


def test_the_norm_of_a_complex_gradient_that_overflows(alarms):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1 + 1j]))

        def forward(self, factor):
            return (self.weight * factor).imag.sum()

    model = Complex()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        model(torch.tensor([1e25])).backward()
        guard.update()
    assert alarms == []
    assert guard.history[-1].norm == pytest.approx(1e25, rel=1e-6)
