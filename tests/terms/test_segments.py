"""Which graphs are found to treat the rows of a batch apart, and whose the rows are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossproof.terms.graph import read_graph
from lossproof.terms.segments import Segments, find_segments

BATCH = 6
LAYER, LAST = nn.Linear(4, 4), nn.Linear(4, 4)
NARROW, SQUARE = nn.Linear(2, 2), nn.Linear(4, BATCH)
NORM, CONVOLUTION = nn.LayerNorm(4), nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)


def split(out):
    return out.split([1, 3, 2])


def segments(body, cut=split):
    parts = cut(body(LAYER(torch.randn(BATCH, 4))))
    return find_segments(read_graph([part.square().sum() for part in parts]))


CUTS = {
    "split": (split, ((0, 1), (1, 3), (2, 2))),
    "chunk": (lambda out: out.chunk(3), ((0, 2), (1, 2), (2, 2))),
    "split in halves": (lambda out: out.split(4), ((0, 4), (1, 2))),
    "slices": (lambda out: (out[:1], out[1:]), ((0, 1), (1, 5))),
    "slices in another order": (lambda out: (out[4:], out[:4]), ((1, 4), (0, 2))),
    "from the end": (lambda out: (out[:-2], out[-2:]), ((0, 4), (1, 2))),
    "interleaved": (lambda out: (out[::2], out[1::2]), ((0, 1), (1, 1)) * 3),
    "single rows": (lambda out: out.unbind(), tuple((k, 1) for k in range(6))),
    "selected rows": (lambda out: (out[2], out[-1]), ((0, 5), (1, 1))),
    "rows that nobody reads": (lambda out: (out[1:2], out[4:5]), ((0, 4), (1, 2))),
}


@pytest.mark.parametrize("cut", CUTS)
def test_whose_the_rows_are(cut):
    found = segments(torch.tanh, CUTS[cut][0])
    assert found is not None
    assert found.batch == BATCH
    if cut not in ("selected rows", "rows that nobody reads"):
        assert found.owners == CUTS[cut][1]
    owners = [term for term, length in found.owners for _ in range(length)]
    assert len(owners) == BATCH
    parts = CUTS[cut][0](torch.arange(BATCH))
    for term, part in enumerate(parts):
        assert {owners[row] for row in part.reshape(-1).tolist()} == {term}


APART = {
    "network": lambda x: LAST(F.gelu(x)) + x,
    "layer norm": NORM,
    "softmax over columns": lambda x: x.softmax(1),
    "view and frozen convolution": lambda x: CONVOLUTION(x.view(BATCH, 1, 2, 2)).flatten(1),
    "columns turned": lambda x: x.view(BATCH, 2, 2).transpose(1, 2).reshape(BATCH, 4),
    "each row in two": lambda x: NARROW(x.view(2 * BATCH, 2)).view(BATCH, 4),
    "columns joined": lambda x: torch.cat([x, x.sin()], 1),
    "attention within a row": lambda x: F.scaled_dot_product_attention(
        *[x.view(BATCH, 1, 2, 2)] * 3
    ).flatten(1),
}
TOGETHER = {
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "mean over the batch": lambda x: x - x.mean(0, keepdim=True),
    "softmax over the batch": lambda x: x.softmax(0),
    "attention over the batch": lambda x: F.scaled_dot_product_attention(*[x[None]] * 3)[0],
    "product with itself": lambda x: x @ (x.T @ x),
    "rows in another order": lambda x: x.flip(0),
    "turned": lambda x: x.T.reshape(BATCH, 4),
    "square and turned": lambda x: SQUARE(x).permute(1, 0),
    "square and transposed": lambda x: SQUARE(x).transpose(0, 1),
    "shuffled": lambda x: x[torch.randperm(BATCH)],
    "cumulative": lambda x: x.cumsum(0),
    "a custom function": lambda x: Custom.apply(x),
    "an addend for each row that goes to a column": lambda x: torch.addmm(
        x.mean(1), x, LAST.weight.new_ones(4, BATCH).requires_grad_()
    ),
}


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient - gradient.mean(0)


@pytest.mark.parametrize("body", APART)
def test_rows_that_stay_apart(body):
    assert segments(APART[body]) == Segments(((0, 1), (1, 3), (2, 2)), BATCH)


@pytest.mark.parametrize("body", TOGETHER)
def test_rows_that_are_mixed(body):
    assert segments(TOGETHER[body]) is None


SHARED = {
    "overlap": lambda out: (out[:4], out[3:]),
    "all rows": lambda out: (out, out[:2]),
    "columns": lambda out: (out[:, :2], out[:, 2:]),
    "one term": lambda out: (out,),
    "an index": lambda out: (out[torch.tensor([0, 1])], out[torch.tensor([2, 3])]),
}


@pytest.mark.parametrize("cut", SHARED)
def test_terms_that_share_rows(cut):
    assert segments(torch.tanh, SHARED[cut]) is None


def test_batches_of_two_lengths_or_of_none():
    short, long = LAYER(torch.randn(2, 4)), LAYER(torch.randn(4, 4))
    terms = [short[:1].sum() + long[:1].sum(), short[1:].sum() + long[1:].sum()]
    assert find_segments(read_graph(terms)) is None
    for cut in (lambda out: out.split(2) * 2, lambda out: (out[:0], out[0:])):
        terms = [part.sum() for part in cut(LAYER(torch.randn(0, 4)))]
        assert find_segments(read_graph(terms)) is None


def test_rows_that_became_several():
    assert Segments(((1, 2), (0, 1)), 3).stretched(6) == [(1, 4), (0, 2)]
