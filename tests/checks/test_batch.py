"""Which arguments are counted in samples."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.checks.batch import Batch, batch_of

N, C, D = 6, 4, 5


def cross_entropy(logits, target, weight):
    return F.cross_entropy(logits, target, weight)


def weighted(input, target, weight):
    return (F.mse_loss(input, target, reduction="none").mean(1) * weight).mean()


def ctc(log_probs, targets, input_lengths, target_lengths):
    return F.ctc_loss(log_probs.log_softmax(2), targets, input_lengths, target_lengths)


def indexed(logits, target, alpha):
    at = -logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    return (alpha[target] * at).mean()


def of_lists(outputs, target):
    return sum(F.mse_loss(output, target) for output in outputs)


def per_item(input, boxes):
    return torch.stack([F.l1_loss(row, box) for row, box in zip(input, boxes, strict=True)]).mean()


def penalty(w, x):
    return (torch.tanh(x @ w) ** 2).mean()


def fitted(theta, x, y):
    return F.mse_loss(theta[0] + theta[1] * x, y)


def chamfer(a, b):
    distances = torch.cdist(a, b)
    return distances.amin(1).mean() + distances.amin(0).mean()


def classes(n):
    return torch.arange(n) % C


def lengths(n, longest):
    return torch.full((n,), longest)


CASES = {
    "all alike": (F.mse_loss, (torch.randn(N, D), torch.randn(N, D)), (0, 0)),
    "class weights": (cross_entropy, (torch.randn(N, C), classes(N), torch.rand(C)), (0, 0, None)),
    "as many classes as samples": (
        cross_entropy,
        (torch.randn(C, C), classes(C), torch.rand(C)),
        (0, 0, None),
    ),
    "as many features as samples": (
        weighted,
        (torch.randn(D, D), torch.randn(D, D), torch.rand(D)),
        (0, 0, 0),
    ),
    "sample weights": (weighted, (torch.randn(N, D), torch.randn(N, D), torch.rand(N)), (0, 0, 0)),
    "weights of classes picked by index": (
        indexed,
        (torch.randn(C, C), torch.tensor([3, 0, 1, 1]), torch.rand(C)),
        (0, 0, None),
    ),
    "a number": (F.mse_loss, (torch.randn(N), torch.tensor(1.0)), (0, None)),
    "time first": (
        ctc,
        (torch.randn(9, 3, C), classes(6).reshape(3, 2) % 3 + 1, lengths(3, 9), lengths(3, 2)),
        (1, 0, 0, 0),
    ),
    "time first, as many steps as samples": (
        ctc,
        (torch.randn(5, 5, C), classes(10).reshape(5, 2) % 3 + 1, lengths(5, 5), lengths(5, 2)),
        (1, 0, 0, 0),
    ),
    "a list of batches": (
        of_lists,
        ([torch.randn(N, D), torch.randn(N, D)], torch.randn(N, D)),
        (0, 0),
    ),
    "a list of samples": (per_item, (torch.randn(3, D), [torch.randn(D)] * 3), (0, 0)),
    "parameters and data": (penalty, (torch.randn(D), torch.randn(N, D)), (None, 0)),
    "parameters picked by index": (
        fitted,
        (torch.randn(3), torch.randn(N), torch.randn(N)),
        (None, 0, 0),
    ),
    "two clouds of points": (chamfer, (torch.randn(N, 3), torch.randn(D, 3)), (0, None)),
    "one sample": (F.mse_loss, (torch.randn(1, D), torch.randn(1, D)), (0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_axis_of_the_samples_is_found(name, examination):
    loss, inputs, axes = CASES[name]
    batch = batch_of(examination(loss, *inputs))
    assert batch is not None
    assert batch.axes == axes


@pytest.mark.parametrize("name", CASES)
def test_the_loss_takes_every_variation(name, examination):
    """Twice the batch, one sample less, another order: all are calls that the loss accepts."""
    loss, inputs, _ = CASES[name]
    case = examination(loss, *inputs)
    batch = batch_of(case)
    values = case.small.values
    others = (
        batch.repeated(values, 2),
        batch.rows(values, range(max(batch.size - 1, 1))),
        batch.permuted(values, list(reversed(range(batch.size)))),
        batch.joined(values, values),
    )
    for changed in others:
        assert case.evaluate(changed).error is None


def test_the_size_is_that_of_the_small_inputs(examination):
    case = examination(F.mse_loss, torch.randn(64, 1000), torch.randn(64, 1000))
    batch = batch_of(case)
    assert batch.size == batch.count(case.small.values) < 64
    assert batch.count(case.inputs.values) == 64


def of_scalars(temperature):
    return temperature**2


def fixed_size(input, target):
    return (F.mse_loss(input, target, reduction="none") * torch.ones(N, D)).mean()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (of_scalars, (torch.tensor(2.0),)),
        (fixed_size, (torch.randn(N, D), torch.randn(N, D))),
    ],
)
def test_no_samples_no_batch(loss, inputs, examination):
    assert batch_of(examination(loss, *inputs)) is None


def test_it_is_told_once_and_costs_one_call(examination, monkeypatch):
    case = examination(F.mse_loss, torch.randn(N, D), torch.randn(N, D))
    evaluate, calls = case.evaluate, []

    def counting(*args, **options):
        calls.append(1)
        return evaluate(*args, **options)

    monkeypatch.setattr(case, "evaluate", counting)
    assert batch_of(case) is batch_of(case)
    assert len(calls) == 1


# ---------------------------------------------------------------------------- other samples
BATCH = Batch(3, (0, 1, None, 0, 0, 0), frozenset({4}))
VALUES = (
    torch.arange(3),
    torch.arange(6).reshape(2, 3),
    torch.arange(3),
    ["a", "b", "c"],
    {"fine": torch.arange(3), "coarse": [torch.arange(3) * 10]},
    np.arange(3),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=7))
def test_rows_are_picked_alike_everywhere(index):
    first, second, shared, names, scales, array = BATCH.rows(VALUES, index)
    assert first.tolist() == index
    assert second.tolist() == [index, [3 + i for i in index]]
    assert shared is VALUES[2]
    assert names == ["abc"[i] for i in index]
    assert scales["fine"].tolist() == index
    assert scales["coarse"][0].tolist() == [10 * i for i in index]
    assert array.tolist() == index


def test_joining_rows_is_picking_both():
    joined = BATCH.joined(BATCH.rows(VALUES, [2]), BATCH.rows(VALUES, [0, 1]))
    picked = BATCH.rows(VALUES, [2, 0, 1])
    assert repr(joined) == repr(picked)
    assert repr(BATCH.repeated(VALUES, 2)) == repr(BATCH.joined(VALUES, VALUES))


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 1], [1, 2, 3]])
def test_an_order_is_a_permutation(order):
    with pytest.raises(ValueError, match="`order` must be a permutation of 3 samples"):
        BATCH.permuted(VALUES, order)


def test_a_gradient_is_not_carried_over():
    (row,) = Batch(2, (0,)).rows((torch.randn(2, requires_grad=True),), [0])
    assert not row.requires_grad
