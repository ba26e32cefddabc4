"""How many threads torch may use while a loss is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

PARALLEL = 32_768
"""Below so many elements torch itself would not share the work out."""


@contextlib.contextmanager
def threads_for(elements: int) -> Iterator[None]:
    """One thread for small inputs.

    There is nothing to share out, but some operations (``nll_loss``) wake all threads even so, and
    wait for them: on a busy machine a thousand times longer than they compute.
    """
    threads = torch.get_num_threads()
    if elements < PARALLEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
