"""A step that is performed again is the same step, and leaves no trace."""

import copy
import gc
import random
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.diagnosis import diagnose
from lossproof.watcher.kept import everything_kept
from lossproof.watcher.lines import Lines
from lossproof.watcher.replay import Replay
from lossproof.watcher.step_watch import StepWatch


def squared(out, target):
    return (out.squeeze(1) - target).square().mean()


def replayed(recording, model):
    """The last call of a recording, performed again with those that it needs."""
    replay = Replay(recording.record, model)
    with everything_kept(recording.record.calls, model):
        return replay, replay.perform_joined(recording.record.calls[-1])


def test_dropout_draws_the_same_mask(recording):
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 1))
    out = recording.model(model, torch.randn(16, 3))
    loss = recording.terms(squared, out, torch.randn(16))
    torch.rand(3)  # the training has gone on
    before = torch.get_rng_state()
    replay, done = replayed(recording, model)
    assert torch.equal(done.result, loss)
    assert replay.caveats == []
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_draws_what_it_drew(recording):
    def noisy(out, target):
        return squared(out + torch.randn_like(out), target)

    model = nn.Linear(3, 1)
    loss = recording.terms(noisy, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    _, done = replayed(recording, model)
    assert torch.equal(done.result, loss)


def test_python_and_numpy_go_on_from_where_they_were(recording):
    def noisy(out, target):
        return squared(out + random.random() + np.random.rand(), target)

    model = nn.Linear(3, 1)
    recording.terms(noisy, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    python, numpy = random.getstate(), np.random.get_state()
    replay, _ = replayed(recording, model)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy[1])
    assert np.random.get_state()[2] == numpy[2]
    assert "when it was called again, not" in replay.caveats[0]


def test_buffers_gradients_and_the_training_mode_stay(recording):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    loss = recording.terms(squared, recording.model(model, torch.randn(8, 3)), torch.randn(8))
    loss.backward()
    state = copy.deepcopy(model.state_dict())
    gradients = {name: (one.grad, one.grad.clone()) for name, one in model.named_parameters()}
    for kind in AlarmKind:
        diagnose(kind, recording.record, model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    for name, one in model.named_parameters():
        held, numbers = gradients[name]
        assert one.grad is held, name
        assert torch.equal(held, numbers), name
    assert model.training


def test_the_step_itself_goes_on_after_a_replay_in_its_middle(recording):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    twin = copy.deepcopy(model)
    x, target = torch.randn(8, 3), torch.randn(8)
    loss = recording.terms(squared, recording.model(model, x), target)
    diagnose(AlarmKind.EXPLODING_GRADIENT, recording.record, model)
    loss.backward()
    squared(twin(x), target).backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_buffers_at_any_depth(recording):
    model = nn.BatchNorm1d(3)
    for _ in range(12):
        model = nn.Sequential(model)
    model = nn.Sequential(model, nn.Linear(3, 1))
    recording.terms(squared, recording.model(model, torch.randn(8, 3)), torch.randn(8))
    state = copy.deepcopy(model.state_dict())
    replayed(recording, model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_large_buffer(recording, monkeypatch):
    monkeypatch.setattr("lossproof.watcher.kept.LARGE", 2)

    class Memory(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            self.register_buffer("seen", torch.zeros(4, 3))

        def forward(self, x):
            self.seen += x
            return super().forward(x)

    model = Memory()
    recording.terms(squared, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    seen, version = model.seen.clone(), model.seen._version
    replayed(recording, model)
    assert torch.equal(model.seen, seen)
    assert model.seen._version == version


def test_a_buffer_that_the_graph_of_the_step_has_saved(recording):
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x):
            self.scale += 1
            return super().forward(x) * self.scale

    model = Scaled()
    loss = recording.terms(squared, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    replayed(recording, model)
    loss.backward()
    assert float(model.scale) == 2


def test_what_hooks_and_the_loss_remember_stays(recording):
    seen, calls = [], []

    def counting(out, target):
        calls.append(1)
        return squared(out, target)

    model = nn.Sequential(nn.Linear(3, 1))
    model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    recording.terms(counting, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    first = list(seen)
    replayed(recording, model)
    assert len(calls) == 1
    assert len(seen) == 1
    assert seen[0] is first[0]


class Counter:
    """An object of the training's own."""

    def __init__(self):
        self.count = 0
        self.sizes = torch.zeros(2)
        self.generator = random.Random(0)


counter = Counter()


def test_objects_that_the_loss_writes_to_stay(recording):
    def counting(out, target):
        counter.count += 1
        counter.sizes[0] += out.detach().abs().sum()
        counter.generator.random()
        return squared(out, target)

    model = nn.Linear(3, 1)
    recording.terms(counting, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    count, sizes, state = counter.count, counter.sizes.clone(), counter.generator.getstate()
    replayed(recording, model)
    assert counter.count == count == 1
    assert torch.equal(counter.sizes, sizes)
    assert counter.generator.getstate() == state


def test_the_recorded_tensors_are_not_written_to(recording):
    def writing(out, target):
        target.mul_(3)
        return squared(out.mul_(2), target)

    model = nn.Linear(3, 1)
    recording.terms(writing, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    kept = [tensor.clone() for tensor in recording.record.calls[-1].args]
    replayed(recording, model)
    for tensor, numbers in zip(recording.record.calls[-1].args, kept, strict=True):
        assert torch.equal(tensor, numbers)


def test_a_batch_that_was_written_to_since(recording):
    model, x = nn.Linear(3, 1), torch.randn(4, 3)
    recording.terms(squared, recording.model(model, x), torch.zeros(4))
    x.zero_()
    replay, _ = replayed(recording, model)
    assert any("`input` was written to after `model` got it" in one for one in replay.caveats)
    found = diagnose(AlarmKind.EXPLODING_LOSS, recording.record, model)
    assert "was written to" in found.caveat


def test_parameters_that_were_updated_since_are_noticed(recording):
    model = nn.Linear(3, 1)
    loss = recording.terms(squared, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    with torch.no_grad():
        model.weight.mul_(2)
    replay, done = replayed(recording, model)
    assert any("`model` gave other numbers" in one for one in replay.caveats)
    # The loss is still performed with what it got then.
    assert torch.equal(done.result, loss)


def test_arguments_in_dictionaries_and_lists_and_by_name(recording):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, batch):
            return {"out": [self.layer(batch["x"])]}

    def loss(outputs, *, batch, scale=1.0):
        return {"fit": scale * squared(outputs["out"][0], batch["y"])}

    model, batch = Model(), {"x": torch.randn(4, 3), "y": torch.randn(4)}
    terms = recording.terms(loss, recording.model(model, batch), batch=batch, scale=2.0)
    replay, done = replayed(recording, model)
    assert replay.caveats == []
    assert torch.equal(done.result["fit"], terms["fit"])
    gradients = replay.gradients(done.result["fit"], recording.record.calls[-1])
    terms["fit"].backward()
    assert torch.equal(gradients.parameters["layer.weight"], model.layer.weight.grad)


@pytest.mark.parametrize("freed", [False, True])
def test_code_between_is_gone_through_by_its_own_graph(recording, freed):
    model, x, target = nn.Linear(3, 1), torch.randn(6, 3), torch.randn(6)
    out = recording.model(model, x)
    flat = out[:, 0].reshape(2, 3).t().flatten()  # views alone, whose graph needs no numbers
    loss = recording.terms(nn.MSELoss(), flat, target)
    expected = torch.autograd.grad(loss, model.weight, retain_graph=not freed)[0]
    replay, done = replayed(recording, model)
    gradients = replay.gradients(done.result, recording.record.calls[-1])
    assert gradients.complete
    assert torch.allclose(gradients.parameters["weight"], expected)


def test_code_between_whose_graph_was_freed_is_said(recording):
    model = nn.Linear(3, 1)
    out = recording.model(model, torch.randn(6, 3)).sigmoid().squeeze(1)
    recording.terms(nn.MSELoss(), out, torch.rand(6)).backward()
    replay, done = replayed(recording, model)
    gradients = replay.gradients(done.result, recording.record.calls[-1])
    assert not gradients.complete
    assert "its graph was freed" in replay.caveats[-1]


def test_a_derivative_that_the_terms_take_of_the_model(recording):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def residual(u, x):
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return {"pde": (slope - u).square().mean()}

    x = torch.linspace(0, 1, 5).unsqueeze(1).requires_grad_()
    terms = recording.terms(residual, recording.model(model, x), x)
    replay, done = replayed(recording, model)
    assert replay.caveats == []
    assert torch.equal(done.result["pde"], terms["pde"])
    gradients = replay.gradients(done.result["pde"], recording.record.calls[-1])
    terms["pde"].backward()
    for name, one in model.named_parameters():
        if one.grad is not None:
            assert torch.allclose(gradients.parameters[name], one.grad), name


def test_autocast_is_as_it_was(recording):
    model, x = nn.Linear(3, 1), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = recording.model(model, x)
    recording.terms(squared, out, torch.randn(4))
    replay, _ = replayed(recording, model)
    done = replay.perform(recording.record.calls[0])
    assert done.result.dtype is torch.bfloat16
    assert torch.equal(done.result, out)
    assert replay.caveats == []


def test_autocast_of_the_caller_is_none_of_the_step_s(recording, network):
    model = network()
    recording.terms(squared, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    with torch.autocast("cpu", torch.bfloat16):
        replay, done = replayed(recording, model)
        assert torch.is_autocast_enabled("cpu")
    assert replay.caveats == []
    assert done.result.dtype is torch.float32


def test_a_call_that_raises_is_a_caveat(recording):
    once = []

    def only_once(out, target):
        if torch.overrides._get_current_function_mode() is not None:
            raise ValueError("not again")
        once.append(1)
        return squared(out, target) * float("inf")

    model = nn.Linear(3, 1)
    recording.terms(only_once, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    found = diagnose(AlarmKind.NON_FINITE_LOSS, recording.record, model)
    assert "raised when it was called again: ValueError: not again" in found.caveat


def test_no_memory_is_a_caveat(recording, monkeypatch):
    def greedy(out, target):
        if torch.overrides._get_current_function_mode() is not None:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return squared(out, target) * float("inf")

    model = nn.Linear(3, 1)
    recording.terms(greedy, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    found = diagnose(AlarmKind.NON_FINITE_LOSS, recording.record, model)
    why = "the step could not be performed again: there was not enough memory"
    assert found.caveat == why


@pytest.mark.parametrize("kind", list(AlarmKind))
def test_nothing_of_a_replay_waits_for_the_garbage_collector(recording, network, kind):
    model = network()
    recording.terms(squared, recording.model(model, torch.randn(4, 3)), torch.full((4,), 1e25))
    gc.collect()
    gc.disable()
    try:
        diagnose(kind, recording.record, model)
        alive = [type(one) for one in gc.get_objects() if type(one) in (Replay, Lines, StepWatch)]
    finally:
        gc.enable()
    assert alive == []


def test_the_replay_keeps_no_intermediate_tensor_alive(recording):
    made = []

    def loss(out, target):
        for _ in range(5):
            out = out + 1  # saved by nothing: each sum is free as soon as the next is made
            made.append(weakref.ref(out))
        return squared(out, target)

    model = nn.Linear(3, 1)
    recording.terms(loss, recording.model(model, torch.randn(4, 3)), torch.randn(4))
    del made[:]
    replay = Replay(recording.record, model)
    done = replay.perform_joined(recording.record.calls[-1])
    assert not done.failed
    assert [one() for one in made[:4]] == [None] * 4


def test_steps_that_are_performed_again_in_two_threads_take_turns():
    """What one puts back of the settings of the process would be what the other had set."""
    torch.compile(lambda x: x, backend="eager")(torch.ones(1))  # settings of the compiler, too
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def second():
        first_is_in.wait(30)
        with everything_kept([], nn.Linear(1, 1)):
            second_is_in.set()

    thread = threading.Thread(target=second)
    thread.start()
    with everything_kept([], nn.Linear(1, 1)):
        first_is_in.set()
        assert not second_is_in.wait(0.3)
    thread.join(30)
    assert second_is_in.is_set()
