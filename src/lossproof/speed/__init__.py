"""Speed: any loss under a memory bound, any pointwise loss in one sweep.

Each part is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossproof.speed.chunking import ChunkedLoss, chunk
    from lossproof.speed.embedding import embed
    from lossproof.speed.fusing import FusedLoss, fuse
    from lossproof.speed.pairing import PairReduction, pairs
    from lossproof.speed.ranks import Share, share_of_rank

_HOMES = {
    "ChunkedLoss": "chunking",
    "FusedLoss": "fusing",
    "PairReduction": "pairing",
    "Share": "ranks",
    "chunk": "chunking",
    "embed": "embedding",
    "fuse": "fusing",
    "pairs": "pairing",
    "share_of_rank": "ranks",
}

__all__ = [
    "ChunkedLoss",
    "FusedLoss",
    "PairReduction",
    "Share",
    "chunk",
    "embed",
    "fuse",
    "pairs",
    "share_of_rank",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
