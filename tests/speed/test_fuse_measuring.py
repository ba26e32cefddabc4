"""How the fastest way is found, and which calls are alike."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lossproof.speed import fuse_measuring
from lossproof.speed.fuse_kinds import Call, looked_into, out_of_reach
from lossproof.speed.fuse_measuring import HOPELESS, ROUNDS, left_as_it_was, times

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that steps set."""
    now = [0.0]
    for name in ("process_time", "perf_counter"):
        monkeypatch.setattr(fuse_measuring.time, name, lambda: now[0])
    return now


def test_a_time_is_that_of_the_quickest_round_and_the_first_run_does_not_count(clock) -> None:
    taken = {"slow": [9.0, 0.03, 0.02, 0.025], "quick": [50.0, 0.02, 0.04, 0.01]}
    seen = dict.fromkeys(taken, 0)

    def step(name: str):
        def run() -> None:
            rounds = taken[name]
            clock[0] += rounds[min(seen[name], len(rounds) - 1)]
            seen[name] += 1

        return run

    found = times({name: step(name) for name in taken}, CPU)
    assert found == pytest.approx({"slow": 0.02, "quick": 0.01})


def test_the_hopeless_have_two_turns_and_short_steps_many(clock) -> None:
    seen = {"hopeless": 0, "one": 0, "two": 0}

    def step(name: str, seconds: float):
        def run() -> None:
            clock[0] += seconds
            seen[name] += 1

        return run

    steps = {
        "hopeless": step("hopeless", HOPELESS * 2e-3),
        "one": step("one", 1e-3),
        "two": step("two", 1.1e-3),
    }
    times(steps, CPU)
    assert seen["hopeless"] == 3  # with the run before the first round
    assert seen["one"] == seen["two"] > ROUNDS


def test_a_step_that_has_no_memory_is_left_out() -> None:
    def without_memory() -> None:
        raise torch.OutOfMemoryError

    assert list(times({"large": without_memory, "small": lambda: None}, CPU)) == ["small"]


def test_attributes_buffers_and_random_numbers_are_put_back() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2))
    inner = module[0]
    inner.steps = 3
    mean = inner.running_mean
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    with left_as_it_was([module], [torch.ones(1)]):
        torch.rand(3)
        inner.steps += 1
        inner.new = True
        inner.running_mean = torch.ones(2)
    assert torch.equal(torch.rand(2), wanted)
    assert inner.steps == 3
    assert not hasattr(inner, "new")
    assert inner.running_mean is mean
    assert inner._buffers["running_mean"] is mean


def kind(*arguments: object, training: bool = True, **options: object):
    return Call(arguments, options).kind(training)


def test_calls_that_are_alike() -> None:
    x, y = torch.zeros(100, 3), torch.zeros(110, 3)
    assert kind(x, 0.5) == kind(y, 0.7)
    assert kind([x], name="a") == kind([y], name="a")


@pytest.mark.parametrize(
    "other",
    [
        lambda x: kind(x.double(), reduction="mean"),
        lambda x: kind(x, reduction="sum"),
        lambda x: kind(x.unsqueeze(0), reduction="mean"),
        lambda x: kind(x.t(), reduction="mean"),
        lambda x: kind(x.clone().requires_grad_(), reduction="mean"),
        lambda x: kind(x, "mean"),
        lambda x: kind(x, reduction="mean", training=False),
        lambda x: kind(x.repeat(20, 1), reduction="mean"),
        lambda x: kind([x], reduction="mean"),
    ],
)
def test_calls_that_are_not(other) -> None:
    x = torch.zeros(100, 3)
    assert other(x) != kind(x, reduction="mean")
    with torch.no_grad():
        assert kind(x) != kind_with_gradients(x)
    with torch.autocast("cpu"):
        assert kind(x) != kind_without_autocast(x)


def kind_with_gradients(x: torch.Tensor):
    with torch.enable_grad():
        return kind(x)


def kind_without_autocast(x: torch.Tensor):
    with torch.autocast("cpu", enabled=False):
        return kind(x)


def test_a_call_that_is_cut_off_has_the_same_memory_and_no_past() -> None:
    x = torch.ones(2, requires_grad=True) * 2
    other = object()
    call = Call((x, other), {"again": x})
    arguments, options, leaves = call.cut_off()
    assert arguments[1] is other
    assert arguments[0] is options["again"] is leaves[0]
    assert leaves[0].is_leaf
    assert leaves[0].data_ptr() == x.data_ptr()


def test_who_looks_for_the_operations() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    class Own(torch.Tensor):
        pass

    x = torch.ones(2)
    assert not looked_into([x])
    with torch.device("cpu"):
        assert not looked_into([x])
    with Recorder():
        assert looked_into([x])
    with torch.autograd.forward_ad.dual_level():
        assert looked_into([x])
    assert looked_into([x.as_subclass(Own)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this is slow
        with torch.autograd.detect_anomaly():
            assert looked_into([x])


def test_what_there_is_nothing_to_gain_of() -> None:
    assert not out_of_reach([torch.ones(2)])
    assert out_of_reach([torch.ones(0, 3)])
    assert out_of_reach([torch.ones(2, device="meta")])
    assert out_of_reach([torch.eye(2).to_sparse()])
