"""The guard on trainings that go wrong in a known way."""

import copy
import io
import pickle
import re
import warnings

import pytest
import torch
from torch import nn

import lossproof
from lossproof.errors import GuardRetiredWarning, TrainingAlarmError, TrainingAlarmWarning
from lossproof.watcher import AlarmKind


class Squares(nn.Module):
    """A mean squared error of its own."""

    def forward(self, prediction, target):
        return (prediction - target).square().mean()


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(count, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(size, 3, generator=generator)
        yield x, x.sum(1, keepdim=True)


def train(model, compute, steps=6, lr=1e-2, data=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for x, y in data or batches(steps):
        optimizer.zero_grad()
        compute(x, y).backward()
        optimizer.step()


@pytest.fixture
def alarms():
    return []


def test_a_right_training_raises_no_alarm_and_goes_as_it_would_alone(alarms):
    alone, watched = network(), network()
    train(alone, lambda x, y: Squares()(alone(x), y), steps=30)
    criterion = Squares()
    with lossproof.watch(watched, criterion, on_alarm=alarms.append) as guard:
        train(watched, lambda x, y: criterion(watched(x), y), steps=30)
    assert alarms == guard.alarms == []
    assert guard.retired is None
    assert [step.step for step in guard.history] == list(range(1, 31))
    for a, b in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_random_numbers_are_those_of_the_training_alone():
    draws = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 1))
        guard = lossproof.watch(model, on_alarm=lambda alarm: None)
        compute = guard.wrap(lambda x, y: ((model(x) - y).square() / 0).mean())  # noqa: B023
        if watched:
            guard.start()
        train(model, compute, steps=3)
        guard.stop()
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_a_model_that_begins_to_draw_late_is_replayed_with_what_it_drew(alarms):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            drawn = torch.randperm(len(x)) if self.calls > 41 else torch.arange(1, 1 + len(x))
            return (self.scale * drawn).log()  # of 0, for one sample, in the 42nd call

    model = Late()
    guard = lossproof.watch(model, on_alarm=alarms.append)
    loss = guard.wrap(lambda out: out.mean())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with guard:
        for _ in range(42):
            optimizer.zero_grad()
            loss(model(torch.ones(64))).backward()
            optimizer.step()
    diagnosis = alarms[0].diagnosis
    assert (alarms[0].step, diagnosis.operation, diagnosis.caveat) == (42, "log", None)


def test_figures_are_those_of_the_training(alarms):
    model, criterion = network(), Squares()
    values, norms = [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with lossproof.watch(model, criterion, ring=5, share=1.0) as guard:
        for x, y in batches(8):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            values.append(loss.item())
            flat = torch.cat([p.grad.flatten() for p in model.parameters()])
            norms.append(float(flat.double().norm()))
            optimizer.step()
    assert [step.values["loss"] for step in guard.history] == values[-5:]
    assert [step.norm for step in guard.history] == pytest.approx(norms[-5:], rel=1e-6)
    assert guard.as_dict() == {
        "watch/loss": values[-1],
        "watch/gradient_norm": pytest.approx(norms[-1], rel=1e-6),
        "watch/alarms": 0.0,
    }
    assert guard.cost > 0


@pytest.mark.parametrize("form", ["module", "wrapped module", "function", "whole step"])
def test_a_loss_that_is_not_finite_is_told_before_the_update(form, alarms):
    model = network()

    def logs(prediction, target):
        return (prediction - target + 1).clamp(min=0).log().mean()  # <-- here

    class Logs(nn.Module):
        def forward(self, prediction, target):
            return logs(prediction, target)

    criterion = Logs()
    guard = lossproof.watch(model, criterion if form == "module" else None, on_alarm=alarms.append)
    if form == "module":
        compute = lambda x, y: criterion(model(x), y)  # noqa: E731
    elif form == "wrapped module":
        wrapped = guard.wrap(criterion)
        compute = lambda x, y: wrapped(model(x), y)  # noqa: E731
    elif form == "function":
        wrapped = guard.wrap(logs)
        compute = lambda x, y: wrapped(model(x), y)  # noqa: E731
    else:
        compute = guard.wrap(lambda x, y: logs(model(x), y))

    x, y = next(batches(1))
    y = model(x).detach()
    bad = y.clone()
    bad[5] += 3
    with guard:
        train(model, compute, data=[(x, y), (x, y), (x, bad), (x, y)])
    (alarm,) = alarms
    assert (alarm.kind, alarm.step, alarm.term) == (AlarmKind.NON_FINITE_LOSS, 3, "loss")
    assert alarm.diagnosis.operation == "log"
    assert alarm.diagnosis.samples == (5,)
    assert "# <-- here" in alarm.diagnosis.location.source
    assert [step.step for step in alarm.history] == [1, 2, 3]


def test_raise_stops_the_training_while_the_parameters_are_good():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    guard = lossproof.watch(model, on_alarm="raise")
    compute = guard.wrap(lambda x, y: (model(x) - y).abs().sum() / 0)
    with pytest.raises(TrainingAlarmError, match="non-finite-loss") as caught, guard:
        train(model, compute)
    assert caught.value.alarm.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_is_told_before_the_update():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    guard = lossproof.watch(model, on_alarm="raise")
    compute = guard.wrap(lambda x, y: (model(x) * 0).square().sum(1).sqrt().mean())  # at 0
    with pytest.raises(TrainingAlarmError) as caught, guard:
        train(model, compute)
    alarm = caught.value.alarm
    assert alarm.kind is AlarmKind.NON_FINITE_GRADIENT
    assert alarm.diagnosis.operation == "sqrt"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_gradient_that_nobody_looked_at_shows_in_the_next_step(alarms):
    model = network()

    def loss_of(out, y):
        return (out * y).square().sum(1).sqrt().mean()  # <-- not where y is 0

    guard = lossproof.watch(model, on_alarm=alarms.append, share=1e-9)
    loss = guard.wrap(loss_of)
    (x, _) = next(batches(1))
    data = [(x, torch.ones(16, 1))] * 8 + [(x, torch.arange(16.0)[:, None] - 5)] * 2
    with guard:
        train(model, lambda x, y: loss(model(x), y), data=data)
    assert guard.history[-2].norm is None
    (alarm,) = alarms
    assert (alarm.kind, alarm.step) == (AlarmKind.NON_FINITE_LOSS, 10)
    assert alarm.diagnosis.operation == "sqrt"
    assert alarm.diagnosis.samples == (5,)
    assert "since the update of step 9" in alarm.diagnosis.notes[0]


def test_a_warning_shows_the_alarm():
    model = network()
    guard = lossproof.watch(model)
    compute = guard.wrap(lambda x, y: (model(x) - y).sum() / 0)
    with pytest.warns(TrainingAlarmWarning, match=r"alarm\[non-finite-loss\] step 1"), guard:
        train(model, compute, steps=1)


def test_an_error_of_the_callers_own_function_comes_out():
    def stop(alarm):
        raise KeyError("enough")

    model = network()
    guard = lossproof.watch(model, on_alarm=stop)
    compute = guard.wrap(lambda x, y: (model(x) - y).sum() / 0)
    with pytest.raises(KeyError, match="enough"), guard:
        train(model, compute, steps=1)


def test_a_training_that_explodes(alarms):
    model, criterion = network(), Squares()
    with lossproof.watch(model, criterion, on_alarm=alarms.append, share=1.0):
        train(model, lambda x, y: criterion(model(x), y), steps=12, lr=3.0)
    kinds = [alarm.kind for alarm in alarms]
    assert {AlarmKind.EXPLODING_LOSS, AlarmKind.EXPLODING_GRADIENT} & set(kinds)
    assert kinds.count(AlarmKind.EXPLODING_LOSS) <= 1


def test_a_term_that_loses_its_gradient(alarms):
    model = network()
    step = 0

    def terms_of(x, y):
        nonlocal step
        step += 1
        out = model(x)
        size = out.square().mean()
        return {"fit": (out - y).square().mean(), "size": size.detach() if step > 4 else size}

    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(terms_of)
        train(model, lambda x, y: sum(compute(x, y).values()), steps=8)
    (alarm,) = alarms
    assert (alarm.kind, alarm.term, alarm.step) == (AlarmKind.DEAD_TERM, "size", 5)
    assert "any more" in alarm.message


def test_a_figure_without_a_gradient_beside_the_loss_is_none(alarms):
    model = network()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(
            lambda x, y: {"fit": (model(x) - y).square().mean(), "accuracy": torch.rand(())}
        )
        train(model, lambda x, y: compute(x, y)["fit"], steps=5)
    assert alarms == []


def test_a_parameter_that_is_not_reached(alarms):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    spare = nn.ModuleDict({"used": model, "spare": nn.Linear(2, 2)})
    guard = lossproof.watch(spare, on_alarm=alarms.append, share=1.0)
    compute = guard.wrap(lambda x, y: (model(x) - y).square().mean())
    optimizer = torch.optim.SGD(spare.parameters(), lr=1e-2)
    with guard:
        for x, y in batches(16):
            optimizer.zero_grad()
            compute(x, y).backward()
            optimizer.step()
    (alarm,) = alarms
    assert alarm.kind is AlarmKind.UNREACHED_PARAMETER
    assert alarm.parameters == ("spare.weight", "spare.bias")


def test_a_gradient_that_dies(alarms):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
        model[2].bias.fill_(0.0)
    guard = lossproof.watch(model, on_alarm=alarms.append, share=1.0)
    compute = guard.wrap(lambda x, y: model(x).clamp(min=1.0).mean())
    with guard:
        train(model, compute, steps=6)
    assert [alarm.kind for alarm in alarms] == [AlarmKind.VANISHED_GRADIENT]
    assert alarms[0].diagnosis.operation == "clamp"


def test_story_three_is_named_in_the_second_epoch(alarms):
    class WrongMSE(torch.autograd.Function):
        @staticmethod
        def forward(ctx, prediction, target):
            ctx.save_for_backward(prediction, target)
            return (prediction - target).square().mean()

        @staticmethod
        def backward(ctx, grad_output):
            prediction, target = ctx.saved_tensors
            return torch.mean(-2 * (target - prediction)).repeat(len(target)), None

    torch.manual_seed(42)
    x = torch.arange(100.0)
    y = 2 + 0.5 * x + torch.rand(100)
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    guard = lossproof.watch(model, on_alarm=alarms.append)
    loss = guard.wrap(WrongMSE)
    with guard:
        data = [(x.unsqueeze(1), y)] * 2
        train(model, lambda x, y: loss(model(x).squeeze(1), y), data=data)
    (alarm,) = alarms
    assert (alarm.kind, alarm.step) == (AlarmKind.WRONG_BACKWARD, 2)
    assert {finding.code for finding in alarm.diagnosis.findings} == {"LP202", "LP203"}


def test_a_right_backward_by_hand_is_left_alone(alarms):
    class RightMSE(torch.autograd.Function):
        @staticmethod
        def forward(ctx, prediction, target):
            ctx.save_for_backward(prediction, target)
            return (prediction - target).square().mean()

        @staticmethod
        def backward(ctx, grad_output):
            prediction, target = ctx.saved_tensors
            return grad_output * 2 * (prediction - target) / target.numel(), None

    model = network()
    guard = lossproof.watch(model, on_alarm=alarms.append)
    loss = guard.wrap(RightMSE)
    with guard:
        train(model, lambda x, y: loss(model(x), y))
    assert alarms == []


def test_values_alone_are_judged_too(alarms):
    model = network()
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        train(model, lambda x, y: guard.note((model(x) - y).sum() / 0, "fit"), steps=1)
    assert (alarms[0].kind, alarms[0].term) == (AlarmKind.NON_FINITE_LOSS, "fit")
    assert alarms[0].diagnosis is not None


def test_a_balancers_step_gives_values_and_norms():
    from lossproof.terms import UPGrad

    model, balancer = network(), UPGrad()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with lossproof.watch(model) as guard:
        for x, y in batches(3):
            out = model(x)
            terms = {"fit": (out - y).square().mean(), "size": out.square().mean()}
            optimizer.zero_grad()
            step = balancer.backward(terms, model)
            guard.note_step(step)
            optimizer.step()
    last = guard.history[-1]
    assert last.values == {"fit": terms["fit"].item(), "size": terms["size"].item()}
    with torch.no_grad():  # the parameters have moved on since
        for parameter in model.parameters():
            parameter.add_(1e-2 * parameter.grad)
    for name, term in (("fit", (model(x) - y).square().mean()), ("size", model(x).square().mean())):
        grads = torch.autograd.grad(term, list(model.parameters()))
        norm = torch.cat([grad.flatten() for grad in grads]).double().norm()
        assert last.norms[name] == pytest.approx(float(norm), rel=1e-4)


def test_norms_of_terms_are_taken_now_and_then():
    model = network()
    with lossproof.watch(model, share=1.0) as guard:
        compute = guard.wrap(
            lambda x, y: {"fit": (model(x) - y).square().mean(), "size": model(x).square().mean()}
        )
        seen = []

        def total(x, y):
            terms = compute(x, y)
            grads = torch.autograd.grad(terms["size"], list(model.parameters()), retain_graph=True)
            seen.append(float(torch.cat([g.flatten() for g in grads]).double().norm()))
            return sum(terms.values())

        train(model, total, steps=4)
    assert guard.history[1].norms["size"] == pytest.approx(seen[1], rel=1e-6)


def test_nothing_of_an_evaluation_is_seen(alarms):
    model, criterion = network(), Squares()
    with lossproof.watch(model, criterion, on_alarm=alarms.append) as guard:
        x, y = next(batches(1))
        with torch.no_grad():
            criterion(model(x), y * float("nan"))
    assert alarms == []
    assert guard.as_dict() == {"watch/alarms": 0.0}


def test_the_guards_own_failure_spares_the_training(monkeypatch):
    from lossproof.watcher.judge import Judge

    def broken(*args):
        raise ZeroDivisionError("a mistake of ours")

    alone, watched = network(), network()
    train(alone, lambda x, y: Squares()(alone(x), y))
    monkeypatch.setattr(Judge, "value", broken)
    criterion = Squares()
    with pytest.warns(GuardRetiredWarning, match="a mistake of ours") as caught:
        with lossproof.watch(watched, criterion) as guard:
            train(watched, lambda x, y: criterion(watched(x), y))
    assert len(caught) == 1
    assert "a mistake of ours" in guard.retired
    for a, b in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)


def test_nothing_stays_on_the_model_afterwards():
    model, criterion = network(), Squares()
    with lossproof.watch(model, criterion):
        assert model._forward_hooks
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not criterion._forward_hooks
    from torch.optim import optimizer

    assert not optimizer._global_optimizer_pre_hooks
    assert not optimizer._global_optimizer_post_hooks


def test_a_copy_of_the_model_is_not_watched(alarms):
    model, criterion = network(), Squares()
    x, y = next(batches(1))
    with lossproof.watch(model, criterion, on_alarm=alarms.append) as guard:
        average = copy.deepcopy(model)
        again = pickle.loads(pickle.dumps(model))
        buffer = io.BytesIO()
        torch.save(model, buffer)
        for other in (average, again):
            other(x * float("nan"))
        criterion(model(x), y)
        assert len(guard._seen.tape.held.calls) == 2
    assert alarms == []


def test_another_models_optimizer_is_not_ours():
    model, other, criterion = network(), network(1), Squares()
    with lossproof.watch(model, criterion) as guard:
        train(other, lambda x, y: Squares()(other(x), y), steps=3)
        train(model, lambda x, y: criterion(model(x), y), steps=2)
    assert [step.step for step in guard.history] == [1, 2]


def test_two_optimizers_of_one_model(alarms):
    model, criterion = network(), Squares()
    first = torch.optim.SGD(model[0].parameters(), lr=1e-2)
    second = torch.optim.Adam(model[2].parameters(), lr=1e-3)
    with lossproof.watch(model, criterion, on_alarm=alarms.append, share=1.0):
        for x, y in batches(30):
            model.zero_grad()
            criterion(model(x), y).backward()
            first.step()
            second.step()
    assert alarms == []


def test_a_training_without_an_optimizer(alarms):
    model, criterion = network(), Squares()
    with lossproof.watch(model, criterion, on_alarm=alarms.append, share=1.0) as guard:
        for x, y in batches(4):
            model.zero_grad()
            criterion(model(x), y).backward()
            guard.update()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(1e-2 * parameter.grad)
    assert [step.step for step in guard.history] == [1, 2, 3, 4]
    assert all(step.norm > 0 for step in guard.history)


def test_closures_of_lbfgs(alarms):
    model, criterion = network(), Squares()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    x, y = next(batches(1))

    def closure():
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    with lossproof.watch(model, criterion, on_alarm=alarms.append) as guard:
        for _ in range(5):
            optimizer.step(closure)
    assert alarms == []
    assert guard.retired is None


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scale_is_not_taken_for_an_explosion(fused, alarms):
    model, criterion = network(), Squares()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
    norms = []
    with lossproof.watch(model, criterion, on_alarm=alarms.append, share=1.0) as guard:
        for x, y in batches(25):
            optimizer.zero_grad()
            scaler.scale(criterion(model(x), y)).backward()
            scale = scaler.get_scale()
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]) / scale)
            scaler.step(optimizer)
            scaler.update()
    assert alarms == []
    assert guard.history[-1].norm == pytest.approx(float(norms[-1].norm()), rel=1e-4)


def test_norms_whose_squares_overflow_are_finite(alarms):
    model, criterion = network(), Squares()
    with lossproof.watch(model, criterion, on_alarm=alarms.append) as guard:
        x, y = next(batches(1))
        (criterion(model(x), y) * 1e25).backward()
        guard.update()
    assert alarms == []
    assert 1e24 < guard.history[-1].norm < float("inf")


def test_sparse_gradients():
    model = nn.EmbeddingBag(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(list(model.parameters()))
    with lossproof.watch(model) as guard:
        compute = guard.wrap(lambda index: model(index).square().mean())
        compute(torch.tensor([[1, 1, 2], [2, 3, 1]])).backward()
        dense = model.weight.grad.to_dense()
        optimizer.step()
    assert guard.history[-1].norm == pytest.approx(float(dense.norm()), rel=1e-6)


def test_what_a_step_holds_is_bounded():
    model, criterion = network(), Squares()
    with lossproof.watch(model, criterion, memory=1000) as guard:
        for x, y in batches(10):
            criterion(model(x), y).backward()
        assert len(guard._seen.tape.held.calls) == 2
        assert guard._seen.tape.held.dropped
        guard.update()
        assert guard._seen.tape.held.calls == []


def test_nothing_is_held_after_the_end():
    import gc
    import weakref

    model, criterion = network(), Squares()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    guard = lossproof.watch(model, criterion)
    with guard:
        x = torch.randn(4, 3)
        criterion(model(x), torch.randn(4, 1)).backward()
    seen, trained = weakref.ref(x), weakref.ref(optimizer)
    del x, optimizer
    gc.collect()
    assert seen() is None
    assert trained() is None


def test_a_compiled_model_stays_one_program(alarms):
    model, criterion = network(), Squares()
    with lossproof.watch(model, criterion, on_alarm=alarms.append) as guard:
        compiled = torch.compile(
            lambda x, y: criterion(model(x), y), backend="aot_eager", fullgraph=True
        )
        train(model, lambda x, y: guard.note(compiled(x, y)), steps=3)
    assert guard.retired is None
    assert alarms == []
    assert [len(step.values) for step in guard.history] == [1, 1, 1]
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ring": 3}, "`ring` must be"),
        ({"ring": 8.0}, "`ring` must be"),
        ({"ring": 10**30}, "`ring` must be"),
        ({"share": 0}, "`share` must be"),
        ({"share": "little"}, "`share` must be"),
        ({"memory": -1}, "`memory` must be"),
        ({"on_alarm": "print"}, "`on_alarm` must be"),
    ],
)
def test_arguments_out_of_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        lossproof.watch(network(), **arguments)


def test_arguments_of_another_type():
    with pytest.raises(TypeError, match="`model` must be a torch.nn.Module, got function"):
        lossproof.watch(lambda x: x)
    with pytest.raises(TypeError, match=r"mse_loss; wrap another one: `loss = guard.wrap\(loss\)`"):
        lossproof.watch(network(), nn.functional.mse_loss)
    with pytest.raises(TypeError, match="`function` must be callable, got int"):
        lossproof.watch(network()).wrap(3)


def test_a_guard_that_does_not_watch_is_not_in_the_way():
    model = network()
    guard = lossproof.watch(model)
    compute = guard.wrap(lambda x, y: (model(x) - y).sum() / 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, compute, steps=1)
    assert guard.note(1.0) == 1.0
    assert re.match(r"<Guard stopped, step 1, 0 alarms>", repr(guard))
    assert guard.start() is guard.start()
    guard.stop()
    guard.stop()
