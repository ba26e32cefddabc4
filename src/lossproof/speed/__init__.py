"""Speed: any loss under a memory bound, any pointwise loss in one sweep."""

from lossproof.speed.chunking import ChunkedLoss, chunk
from lossproof.speed.pairing import PairReduction, pairs

__all__ = ["ChunkedLoss", "PairReduction", "chunk", "pairs"]
