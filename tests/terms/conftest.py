"""Processes for the tests of distributed training, which start when the first test wants them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from tests.terms.ranks import Processes

collect_ignore = ["architectures"]
"""Models that the tests import; read a second time, for doctests, they would be there twice."""


def _processes(size: int, factory: pytest.TempPathFactory) -> Iterator[Processes]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    processes = Processes(size, factory.mktemp(f"ranks{size}"))
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    yield from _processes(2, tmp_path_factory)


@pytest.fixture(scope="session")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    yield from _processes(4, tmp_path_factory)


@pytest.fixture(params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> Processes:
    name = {2: "two_ranks", 4: "four_ranks"}[request.param]
    processes: Processes = request.getfixturevalue(name)
    return processes
