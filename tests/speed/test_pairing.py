"""Reductions over all pairs, against the whole matrix under autograd."""

from __future__ import annotations

import itertools

import pytest
import torch

from lossproof.speed.pairing import pairs

REDUCES = ("sum", "mean", "logsumexp", "max", "min")
DIMS = (1, 0, (1, 0), (0, 1))
CASES = list(itertools.product(REDUCES, DIMS))


def rows(count: int, width: int = 4) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, requires_grad=True)


def combined(results):
    """A scalar to which each row counts for another weight."""
    results = results if isinstance(results, tuple) else (results,)
    return sum(
        (one * torch.linspace(0.1, 1, len(one), dtype=torch.float64)).square().sum()
        for one in results
    )


def squares(tensors):
    return sum(one.square().sum() for one in tensors)


def assert_close(ours, plain):
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("reduce", "dim"), CASES)
@pytest.mark.parametrize("self_pairs", [False, True])
def test_the_first_three_derivatives_are_those_of_the_matrix(reduce, dim, self_pairs):
    x, y = rows(9), None if self_pairs else rows(13)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    captured = rows(4)
    ours = pairs(lambda a, b, s: torch.tanh(a @ captured @ b.T * s), reduce, dim=dim, block_size=4)
    leaves = [x, scale, captured] + ([] if self_pairs else [y])
    found = []
    for reduction in (ours, ours.plain):
        loss = combined(reduction(x, y, s=scale))
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(squares(first), leaves, create_graph=True)
        third = torch.autograd.grad(squares(second), leaves)
        found.append([loss, *first, *second, *third])
    assert_close(*found)
