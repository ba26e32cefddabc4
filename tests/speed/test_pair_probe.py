"""A look at a few pairs leaves nothing behind."""

import gc
import weakref

import torch

from lossproof import pairs


def test_what_was_looked_at_is_freed():
    seen = []

    def similarity(x, y, *, scale):
        product = x @ y.T
        seen.append(weakref.ref(product))
        return product * scale  # keeps the product for its gradient

    x, y = torch.randn(40, 3, requires_grad=True), torch.randn(30, 3, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    pairs(similarity, "sum", block_size=8)(x, y, scale=scale).sum().backward()
    gc.collect()
    assert seen
    assert all(reference() is None for reference in seen)
