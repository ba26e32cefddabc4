"""Random calls of all that is public, as many as fit into half a minute of one core.

``python -m benchmarks fuzz`` makes 10,000; its results are in ``docs/benchmarks/fuzz.md``.
``FUZZ_CALLS=10000`` makes as many here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator

import pytest
import torch
from benchmarks.fuzz.examine import examined
from benchmarks.fuzz.surfaces import SURFACES, Surface
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CALLS = int(os.environ.get("FUZZ_CALLS", "2000"))
TOTAL = sum(surface.share for surface in SURFACES)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Torch's compiler logs what a loss raises before the loss is heard itself."""
    logging.disable(logging.ERROR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_a_random_call_does_nothing_that_its_page_does_not_say(surface: Surface) -> None:
    @settings(
        max_examples=max(3, surface.share * CALLS // TOTAL),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],  # there is nothing smaller than a seed
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**31))
    def call(seed: int) -> None:
        with warnings.catch_warnings():  # of torch, while the arguments are made
            warnings.simplefilter("ignore")
            make = surface.drawn(seed)
        assert examined(make).faults == []

    call()
