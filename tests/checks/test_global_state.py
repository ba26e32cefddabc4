"""What belongs to the whole process is what it was, wherever a check was interrupted."""

import contextlib
import logging
import random
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn

import lossproof
from lossproof.checks import global_state
from lossproof.checks.global_state import globals_restored, kept_settings, untouched_globals
from lossproof.checks.silence import Nowhere
from lossproof.checks.state import State


def is_compiled():
    """Whether what is to be compiled is compiled now, as far as a caller can see."""
    seen = []

    def backend(module, examples):
        seen.append(module)
        return module.forward

    torch.compiler.reset()  # one piece of code is compiled a few times, and then no more
    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    return bool(seen)


def everything():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
        global_state.global_settings(),
        list(warnings.filters),
        (sys.stdout, sys.stderr),
        logging.getLogger("torch._dynamo").level,
        is_compiled(),
    )


def change_everything():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.autograd.set_detect_anomaly(True)
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    sys.stdout, sys.stderr = Nowhere(), Nowhere()
    logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)
    torch.compiler.set_stance("force_eager")


def test_all_comes_back_however_the_block_ends():
    before = everything()
    with pytest.raises(KeyboardInterrupt), globals_restored():
        change_everything()
        raise KeyboardInterrupt
    assert everything() == before


def test_a_callers_own_stance_comes_back():
    with torch.compiler.set_stance("force_eager"):
        with globals_restored():
            assert not is_compiled()
            torch.compiler.set_stance("default")
        assert not is_compiled()
    assert is_compiled()


def test_what_was_loaded_meanwhile_compiles_as_usual(monkeypatch):
    loaded = iter([False, True])
    monkeypatch.setattr(global_state, "_dynamo_is_loaded", lambda: next(loaded))
    with globals_restored():
        torch.compiler.set_stance("force_eager")
        assert not is_compiled()
    assert is_compiled()


def test_settings_and_generators_come_back_after_a_call():
    before = everything()
    with pytest.raises(KeyboardInterrupt), untouched_globals(1):
        torch.set_default_dtype(torch.float64)
        torch.rand(1)
        raise KeyboardInterrupt
    assert everything() == before
    with pytest.raises(ValueError, match="x"), kept_settings():
        torch.set_grad_enabled(False)
        raise ValueError("x")
    assert everything() == before


SEEN = torch.zeros(())
SCALE = torch.ones(4)
CALLS: list[torch.dtype] = []


def remembering(input, target):
    """Changes what the module has with every call (a layer would be copied for the check)."""
    SEEN.add_(1)
    CALLS.append(SCALE.dtype)
    return (SCALE * (input - target) ** 2).mean()


INPUTS = "input float[4]; target float[4]"
WORK = {
    "check": lambda report: lossproof.check(remembering, INPUTS),
    "compare": lambda report: lossproof.compare(nn.MSELoss(), remembering, INPUTS),
    "charts": lambda report: report.with_charts(),
    "inference": lambda report: lossproof.check(remembering),
}
"""What calls the loss."""


@pytest.fixture(autouse=True)
def as_usual():
    """Where one of these tests fails, the next starts afresh."""
    with globals_restored():
        torch.compiler.set_stance("default")
        yield


@pytest.fixture
def report():
    """Of a check before; nothing is different after the test."""
    report = lossproof.check(remembering, INPUTS)
    before = everything(), SEEN, SCALE
    yield report
    assert (everything(), SEEN, SCALE) == before
    assert SEEN.item() == 0 and CALLS == []
    assert SCALE.dtype is torch.float32 and SCALE.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("number", [1, 2, 10])
@pytest.mark.parametrize("name", WORK)
def test_an_interruption_amid_the_settings(monkeypatch, report, name, number):
    """Ctrl-C comes after a call was made eager, and before what would undo that is reached."""
    calls = 0

    def interrupted():
        nonlocal calls
        calls += 1
        stance = torch.compiler.set_stance("force_eager")
        if calls == number:
            torch.set_default_dtype(torch.float64)
            warnings.simplefilter("ignore")
            raise KeyboardInterrupt
        return stance

    monkeypatch.setattr(global_state, "_eagerly", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WORK[name](report)


@pytest.mark.parametrize("number", [1, 2, 10])
@pytest.mark.parametrize("name", WORK)
def test_an_interruption_amid_the_state(monkeypatch, report, name, number):
    """Ctrl-C comes when the loss's state is about to be put back."""
    calls, restore = 0, State.restore

    def interrupted(state):
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt
        restore(state)

    monkeypatch.setattr(State, "restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WORK[name](report)


OPEN = {"kept_settings", "untouched_globals", "lent"}
"""Contexts that put something back."""


class Amid:
    """Interrupt amid the entry or the exit of a context: its generator stays where it yielded.

    So it is after the entry, where the block has not begun, and before the exit.
    """

    def __init__(self, monkeypatch, method, number, interrupt):
        self.generator = None
        self.number = number
        self.interrupt = interrupt
        original = getattr(contextlib._GeneratorContextManager, method)

        def enter(context):
            result = original(context)
            self.passed(context)
            return result

        def leave(context, *exception):
            self.passed(context)
            return original(context, *exception)

        replacement = enter if method == "__enter__" else leave
        monkeypatch.setattr(contextlib._GeneratorContextManager, method, replacement)

    def passed(self, context):
        if context.gen.__name__ in OPEN:
            self.number -= 1
            if self.number == 0:
                self.generator = weakref.ref(context.gen)
                self.interrupt()

    def is_over(self):
        """Whether it was interrupted, and what was open then has put everything back."""
        return self.generator is not None and self.generator() is None


def ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 3, 20])
@pytest.mark.parametrize("method", ["__enter__", "__exit__"])
@pytest.mark.parametrize("name", WORK)
def test_an_interruption_that_leaves_a_context_open(monkeypatch, report, name, method, number):
    """It is ended then, and not when somebody frees the error: that would be amid other things."""
    amid = Amid(monkeypatch, method, number, ctrl_c)
    with pytest.raises(KeyboardInterrupt) as caught:
        WORK[name](report)
    assert amid.is_over()
    assert caught.tb is not None  # the error is still held
