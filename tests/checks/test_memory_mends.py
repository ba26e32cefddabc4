"""The call of `lossproof.pairs` or `lossproof.chunk` that is shown."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossproof
from lossproof.checks.memory_mends import chunk_call, output_layer, pairs_call

needs_columns = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="an expression is read at its columns"
)


def of_a_product(a, b):
    similarity = a @ b.T / 0.1
    return F.cross_entropy(similarity, torch.arange(len(a)))


def of_one(z, temperature=0.5):
    z = F.normalize(z, dim=1)
    return torch.logsumexp(z @ z.T / temperature, 1).mean()


def of_distances(x, y):
    d = (x[:, None] - y[None]).pow(2).sum(-1)
    return torch.exp(-d).mean()


def along_columns(x, y):
    return torch.cdist(x, y).amin(dim=0).mean()


def nothing_reduces(x, y):
    return (x @ y.T).tril().flatten().std()


PAIRS = {
    of_a_product: 'lossproof.pairs(lambda a, b: a @ b.T / 0.1, "logsumexp")(a, b)',
    of_one: 'lossproof.pairs(lambda x, y: x @ y.T / temperature, "logsumexp")(z)',
    of_distances: (
        "lossproof.pairs(lambda x, y: torch.exp(-(x[:, None] - y[None]).pow(2).sum(-1)), "
        '"mean")(x, y)'
    ),
    along_columns: 'lossproof.pairs(lambda x, y: torch.cdist(x, y), "min", dim=0)(x, y)',
    nothing_reduces: None,
}


def matrix_of(case):
    size = case.inputs.values[0].shape[0]
    results = [result for _, result in case.trace.results.values()]
    return next(t for t in results if isinstance(t, torch.Tensor) and t.shape[:2] == (size, size))


@needs_columns
@pytest.mark.parametrize("loss", PAIRS, ids=lambda f: f.__name__)
def test_pairs(examination, loss):
    inputs = ["float[12,3]"] * (1 if loss is of_one else 2)
    case = examination(loss, *inputs)
    assert pairs_call(case, matrix_of(case)) == PAIRS[loss]


def test_the_call_gives_the_rows():
    x, y = torch.randn(12, 3), torch.randn(12, 3)
    rows = eval(PAIRS[of_distances])
    torch.testing.assert_close(rows.mean(), of_distances(x, y))
    a, b = x, y
    rows = eval(PAIRS[of_a_product])
    torch.testing.assert_close((rows - (a * b).sum(1) / 0.1).mean(), of_a_product(a, b))


def test_lossproof_is_what_is_called():
    assert "lossproof.pairs" in PAIRS[of_one]
    assert callable(lossproof.pairs)


class WithAHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 200)

    def forward(self, hidden, target):
        return F.cross_entropy(self.head(hidden), target)


def tied(hidden, weight, target):
    return F.cross_entropy(hidden @ weight.T, target)


def functional(hidden, weight, target):
    logits = F.linear(hidden, weight)
    return F.cross_entropy(logits, target)


ROWS = torch.randn(6, 4), torch.randint(200, (6,))
WEIGHT = torch.randn(200, 4)


@needs_columns
@pytest.mark.parametrize(
    ("loss", "inputs", "call"),
    [
        (WithAHead(), ROWS, "lossproof.chunk(F.cross_entropy, self.head)(hidden, target)"),
        (
            tied,
            (ROWS[0], WEIGHT, ROWS[1]),
            "lossproof.chunk(F.cross_entropy, weight)(hidden, target)",
        ),
        (
            functional,
            (ROWS[0], WEIGHT, ROWS[1]),
            "lossproof.chunk(F.cross_entropy, lambda rows: F.linear(rows, weight))(hidden, target)",
        ),
    ],
)
def test_chunk(examination, loss, inputs, call):
    case = examination(loss, *inputs)
    layer = output_layer(case.trace, 8)
    assert layer.logits.shape == (6, 200)
    assert chunk_call(case, layer) == call


def test_a_small_layer_is_none(examination):
    case = examination(tied, torch.randn(6, 4), torch.randn(5, 4), torch.randint(5, (6,)))
    assert output_layer(case.trace, 8) is None
