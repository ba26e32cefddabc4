"""Settings for the whole suite."""

import gc
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

# One thread per test process: tensors are tiny here, and tests run side by side. It is inherited by
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmarks.fuzz.kept import settings as settings_of_process

torch.set_num_threads(1)

# The same commit gives the same verdict, on a machine of any speed.
settings.register_profile("lossproof", deadline=None, derandomize=True)
settings.load_profile("lossproof")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """No test depends on the one before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """No test changes what belongs to the process, which others would fail of, elsewhere."""
    before = settings_of_process()
    yield
    changed = {name: now for name, now in settings_of_process().items() if now != before[name]}
    if "what is compiled" in changed:
        torch.compiler.set_stance("default")
    assert not changed


@pytest.fixture(autouse=True)
def internal_errors_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that fails on a loss is told to users as unproved; a test must see it."""
    from lossproof.checks import run

    def fail(rule: object, error: Exception) -> None:
        raise error

    monkeypatch.setattr(run, "_internal_error", fail)


@pytest.fixture(scope="session")
def marked() -> Callable[[Any], int]:
    """The line of ``# <-- here`` in the source of a function or class."""

    def line(target: Any) -> int:
        lines, first = inspect.getsourcelines(inspect.unwrap(target))
        places = [first + offset for offset, text in enumerate(lines) if "# <-- here" in text]
        assert len(places) == 1, f"{target} has {len(places)} marked lines"
        return places[0]

    return line


def pytest_collection_finish() -> None:
    """Collections of garbage need not look through what was there before the first test."""
    gc.collect()
    gc.freeze()
