"""Speed: any loss under a memory bound, any pointwise loss in one sweep.

Each part is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossproof.speed.chunking import ChunkedLoss, chunk
    from lossproof.speed.pairing import PairReduction, pairs

_HOMES = {
    "ChunkedLoss": "chunking",
    "PairReduction": "pairing",
    "chunk": "chunking",
    "pairs": "pairing",
}

__all__ = ["ChunkedLoss", "PairReduction", "chunk", "pairs"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
