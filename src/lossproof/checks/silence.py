"""What a loss prints while it is checked."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator


class Nowhere(io.TextIOBase):
    """Swallows what is printed; it holds no file, which a loss that closes files could close."""

    def write(self, text: str) -> int:
        """Do as if it were written."""
        return len(text)


@contextlib.contextmanager
def output_restored() -> Iterator[None]:
    """A context after which ``sys.stdout`` is what it was.

    To stand around a time limit: its interruption may come while a redirection within is ending.
    """
    before = sys.stdout
    try:
        yield
    finally:
        sys.stdout = before
