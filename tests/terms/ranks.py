"""Processes that train together, for tests: started once, each test runs a function on all."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT = 120.0
"""Seconds after which a function that has not returned has hung."""
WAIT = 60.0
"""Seconds for which a rank waits for the others."""


class Processes:
    """Processes of one gloo group, each a rank, that run one function after the other.

    Args:
        size: how many.
        folder: where they meet; no port is opened for that.
    """

    def __init__(self, size: int, folder: Path) -> None:
        self.size = size
        self._folder = folder
        self._starts = 0
        self._running: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run a function of a module on every rank, and return what each returned.

        Raises:
            AssertionError: one raised an exception, died, or did not return in time.
        """
        if not self._running:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, arguments))
        deadline = monotonic() + LIMIT
        answers = []
        for rank, pipe in enumerate(self._pipes):
            try:
                ready = pipe.poll(max(deadline - monotonic(), 0.0))
                answers.append(pipe.recv() if ready else (False, f"rank {rank} has hung"))
            except EOFError:
                answers.append((False, f"rank {rank} died"))
        wrong = [words for fine, words in answers if not fine]
        if wrong:
            self.stop()
            raise AssertionError("\n".join(wrong))
        return [result for _, result in answers]

    def _start(self) -> None:
        self._starts += 1
        context = mp.get_context("spawn")
        store = self._folder / f"store{self._starts}"
        for rank in range(self.size):
            here, there = context.Pipe()
            arguments = (rank, self.size, str(store), there)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self._running.append(process)
            self._pipes.append(here)

    def stop(self) -> None:
        """End the processes."""
        for process in self._running:
            process.kill()
            process.join()
        self._running, self._pipes = [], []


def _serve(rank: int, size: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=WAIT),
    )
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(*arguments)))
        except Exception:
            pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))
