"""The cross entropy by its formula, against torch's and against exact arithmetic."""

from __future__ import annotations

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lossproof.speed import chunk, softmax_slope
from lossproof.speed.softmax_slope import SoftmaxSlope


@given(
    rows=st.integers(0, 12),
    classes=st.integers(1, 9),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    weighted=st.booleans(),
    scale=st.sampled_from([1.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_values_and_derivatives_are_those_of_torch(rows, classes, smoothing, weighted, scale, seed):
    torch.manual_seed(seed)
    logits = (torch.randn(rows, classes, dtype=torch.float64) * scale).requires_grad_()
    target = torch.randint(0, classes, (rows,))
    target[::3] = -7
    weights = torch.rand(classes, dtype=torch.float64) if weighted else None
    expected = F.cross_entropy(
        logits,
        target,
        weight=weights,
        label_smoothing=smoothing,
        ignore_index=-7,
        reduction="none",
    )
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    own = logits.detach().clone()
    values = SoftmaxSlope(smoothing, weights, -7).values_and_slope(own, target)
    torch.testing.assert_close(values, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own, slope, rtol=1e-12, atol=1e-14)


def test_rows_that_fill_more_than_the_cache(monkeypatch):
    logits, target = torch.randn(37, 11, dtype=torch.float64), torch.randint(0, 11, (37,))
    whole = logits.clone()
    expected = SoftmaxSlope(0.1, None, -1).values_and_slope(whole, target)
    monkeypatch.setattr(softmax_slope, "CACHE", 4 * 11 * 8)
    found = SoftmaxSlope(0.1, None, -1).values_and_slope(logits, target)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits, whole)


@pytest.mark.parametrize("numbers", [[1e4, -1e4, 0.0], [800.0, 799.0, 0.0], [-1e30, 0.0, 1.0]])
def test_large_logits_against_exact_arithmetic(numbers):
    logits = torch.tensor([numbers] * 3, dtype=torch.float64)
    values = SoftmaxSlope(0.0, None, -1).values_and_slope(logits, torch.arange(3))
    with mpmath.workdps(60):
        shares = [mpmath.exp(mpmath.mpf(one) - max(numbers)) for one in numbers]
        total = mpmath.fsum(shares)
        for k in range(3):
            exact = mpmath.log(total) - (mpmath.mpf(numbers[k]) - max(numbers))
            assert values[k].item() == pytest.approx(float(exact), rel=1e-14)
            for c in range(3):
                exact = float(shares[c] / total - (c == k))
                assert logits[k, c].item() == pytest.approx(exact, rel=1e-13, abs=1e-16)


def test_classes_that_are_impossible():
    logits = torch.tensor([[0.0, -torch.inf, 1.0]])
    values = SoftmaxSlope(0.0, None, -1).values_and_slope(logits, torch.tensor([2]))
    assert values.isfinite().all() and logits.isfinite().all() and logits[0, 1] == 0


@pytest.mark.parametrize("ignored", [-100, 2])
def test_targets_may_be_bytes_as_for_torch(ignored):
    logits = torch.randn(5, 3, dtype=torch.float64)
    target = torch.tensor([0, 2, 1, 2, 0], dtype=torch.uint8)
    weights = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    expected = F.cross_entropy(logits, target, weights, ignore_index=ignored, reduction="none")
    values = SoftmaxSlope(0.0, weights, ignored).values_and_slope(logits.clone(), target)
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_chunked_loss_of_bytes(weighted):
    hidden, head = torch.randn(7, 4), torch.nn.Linear(4, 3)
    target = torch.tensor([0, 2, 1, 2, 0, 1, 1], dtype=torch.uint8)
    loss = torch.nn.CrossEntropyLoss(torch.tensor([0.5, 2.0, 3.0]) if weighted else None)
    found = chunk(loss, head, chunk_size=3)(hidden, target)
    torch.testing.assert_close(found, loss(head(hidden), target.long()))
