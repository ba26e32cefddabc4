"""Known allocations have the known peak."""

import pytest
import torch
from benchmarks.harness import memory
from benchmarks.harness.study import Step

MEGABYTE = 2**18  # float32 numbers


def numbers(megabytes):
    return torch.ones(megabytes * MEGABYTE)


def test_the_peak_of_sizes_that_come_and_go():
    assert memory.peak_of([5, 10, -5, 3, -10]) == (15, 3)
    assert memory.peak_of([-4, 6]) == (2, 2)
    assert memory.peak_of([]) == (0, 0)


def test_the_live_peak_is_that_of_the_tensors_that_are_held():
    kept = []

    def step():
        first = numbers(8)
        second = numbers(16)
        del first
        kept.append(numbers(4))
        del second

    assert memory.live_peak(Step.of(step)) == (24 * 2**20, 4 * 2**20)


def test_what_a_step_releases_of_the_one_before_is_subtracted():
    held = []

    def step():
        held.clear()
        held.append(numbers(8))

    assert memory.live_peak(Step.of(step)) == (0, 0)


def test_what_is_done_before_a_step_does_not_count():
    held = []

    def clear():
        held.clear()
        numbers(32)

    step = Step({"step": lambda: held.append(numbers(8))}, before=clear)
    assert memory.live_peak(step) == (8 * 2**20, 8 * 2**20)


def test_a_backward_pass_holds_what_it_must():
    x = numbers(8).requires_grad_()

    def clear():
        x.grad = None

    peak, left = memory.live_peak(Step({"step": lambda: (x * x).sum().backward()}, before=clear))
    assert left == 8 * 2**20
    # the product is gone before the gradient is made, from two halves
    assert 16 * 2**20 <= peak <= 24 * 2**20 + 1024


def test_a_step_is_cleared_before_it_is_weighed():
    x = numbers(4).requires_grad_()

    def clear():
        x.grad = None

    step = Step({"step": lambda: (x * 2).sum().backward()}, before=clear)
    step.take()
    found = memory.of_step(step)
    assert found["left_mb"] == pytest.approx(4, abs=0.01)
    assert found["live_mb"] >= 4


@pytest.mark.skipif(not memory.STATUS.exists(), reason="Linux alone tells the resident memory")
def test_the_resident_peak_sees_what_torch_does_not():
    # Of bytes that no tensor holds torch's own count sees nothing.
    def step():
        bytes(bytearray(48 * 2**20))

    found = memory.of_step(Step.of(step))
    assert found["live_mb"] == 0
    assert 90 < found["resident_mb"] < 110


def test_there_is_some_memory():
    assert memory.available() > 2**20


@pytest.mark.skipif(not memory.STATUS.exists(), reason="Linux alone tells the resident memory")
def test_a_long_step_is_taken_once():
    kept, calls = [], []

    def step():
        calls.append("step")
        kept.append(numbers(40))
        kept.clear()

    found = memory.of_step(Step({"step": step}, warm=lambda: calls.append("warm")))
    assert calls == ["warm", "step"]
    assert found["live_mb"] == 40
    assert 35 < found["resident_mb"] < 60


def test_a_recording_tells_when_what_was_held():
    held = []
    step = Step(
        {"first": lambda: held.append(numbers(8)), "second": lambda: numbers(16)},
        before=held.clear,
    )
    seen = memory.recorded(step)
    assert [size for _, size in seen.sizes] == [8 * 2**20, 16 * 2**20, -16 * 2**20]
    taken, again, released = (instant for instant, _ in seen.sizes)
    assert 0 <= seen.phases["first"] <= taken <= seen.phases["second"] <= again <= released
    assert released <= seen.end
