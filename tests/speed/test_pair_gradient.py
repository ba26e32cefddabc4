"""The gradient of reductions over all pairs: what only some blocks use."""

import pytest
import torch
from torch import nn

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.pairing import pairs


def test_a_leaf_that_only_some_blocks_use_is_refused_in_words():
    factor = nn.Parameter(torch.tensor(1.5))

    def product(x, y):
        values = x @ y.t()
        return values * factor if bool((x[:, 0] > 0).any()) else values

    x = -torch.rand(300, 4)
    x[250, 0] = 1
    x.requires_grad_()
    rows = pairs(product, "sum", block_size=50)(x)
    with pytest.raises(UnsupportedGraphError, match="for some pairs alone: give it by name"):
        rows.sum().backward()
