"""What several tests of speed stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from tests.terms.ranks import Processes


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes for distributed training, which start when the first test wants them."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    processes = Processes(2, tmp_path_factory.mktemp("two_ranks"))
    yield processes
    processes.stop()


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs are run one operation after the other: a C++ compiler takes seconds for each."""
    for module in ("fuse_programs", "fuse_compiled"):
        monkeypatch.setattr(f"lossproof.speed.{module}.inductor", lambda graph, inputs: graph)
