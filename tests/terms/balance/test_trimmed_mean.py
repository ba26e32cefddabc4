"""The trimmed mean against scipy's and TorchJD's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lossproof.terms import TermGradients
from lossproof.terms.balance.trimmed_mean import TrimmedMean

SCALES = st.sampled_from([1e-20, 1e-12, 1e-4, 1.0, 1e6, 1e20])
SEEDS = st.integers(0, 10**6)
BETAS = st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.49])


def gradients(seed: int, count: int, size: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, size)))


def step_of(matrix: torch.Tensor, beta: float) -> torch.Tensor:
    figures = TermGradients.from_matrix(matrix)
    balancer = TrimmedMean(figures.names, beta=beta)
    weights = balancer.weights_of(figures)
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64))
    (step,) = balancer.gradients_of(figures, weights).values()
    return step


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 12), BETAS, SCALES)
def test_the_step_is_scipys(seed: int, count: int, beta: float, scale: float) -> None:
    matrix = scale * gradients(seed, count)
    wanted = scipy.stats.trim_mean(matrix.numpy(), beta + 1e-12, axis=0)
    torch.testing.assert_close(
        step_of(matrix, beta), torch.from_numpy(wanted), rtol=1e-9, atol=1e-12 * scale
    )


def test_beside_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for count, trimmed in ((4, 1), (7, 2), (5, 0)):
        matrix = gradients(count, count)
        wanted = aggregation.TrimmedMean(trimmed)(matrix)
        torch.testing.assert_close(step_of(matrix, trimmed / count), wanted)


def test_by_hand() -> None:
    matrix = torch.tensor([[1.0, 5.0], [2.0, -1e9], [1e9, 6.0], [4.0, 7.0]])
    assert step_of(matrix, 0.25).tolist() == [3.0, 5.5]


@settings(max_examples=25)
@given(SEEDS, st.integers(3, 8), st.sampled_from([torch.float32, torch.bfloat16]))
def test_one_term_cannot_leave_the_range_of_the_others(
    seed: int, count: int, dtype: torch.dtype
) -> None:
    matrix = gradients(seed, count).to(dtype)
    others = matrix[1:].clone()
    matrix[0] *= 1e6
    step = step_of(matrix, 1 / 3)
    assert step.dtype == dtype
    slack = 1e-2 * others.abs().amax(0)
    assert bool((step >= others.amin(0) - slack).all())
    assert bool((step <= others.amax(0) + slack).all())


@settings(max_examples=25)
@given(SEEDS, BETAS)
def test_permutation(seed: int, beta: float) -> None:
    matrix = gradients(seed, 6)
    order = np.random.default_rng(seed).permutation(6)
    assert torch.equal(step_of(matrix[order], beta), step_of(matrix, beta))


def test_a_head_is_trained_by_its_own_term() -> None:
    """It gets a third of its gradient, as in the mean; the trunk is trimmed to the middle term."""
    x = torch.randn(6, 3)
    model = nn.ModuleDict({"trunk": nn.Linear(3, 4)} | {name: nn.Linear(4, 1) for name in "abc"})
    hidden = model["trunk"](x).tanh()
    terms = {name: model[name](hidden).square().mean() for name in "abc"}
    alone = torch.autograd.grad(terms["a"], model["a"].weight, retain_graph=True)[0]
    of_trunk = torch.stack(
        [
            torch.autograd.grad(term, model["trunk"].weight, retain_graph=True)[0]
            for term in terms.values()
        ]
    )
    TrimmedMean(beta=1 / 3).backward(terms, model)
    torch.testing.assert_close(model["a"].weight.grad, alone / 3)
    torch.testing.assert_close(model["trunk"].weight.grad, of_trunk.median(0).values)


def test_without_trimming_it_is_the_mean() -> None:
    x = torch.randn(6, 3)
    model = nn.Linear(3, 2)
    out = model(x)
    terms = {"a": out.sum(), "b": out.square().sum(), "constant": torch.tensor(1.0)}
    wanted = torch.autograd.grad(sum(terms.values()) / 3, model.weight, retain_graph=True)[0]
    TrimmedMean(beta=0.0).backward(terms, model)
    torch.testing.assert_close(model.weight.grad, wanted)


@pytest.mark.parametrize(
    ("beta", "error"), [(-0.1, ValueError), (0.5, ValueError), ("0.1", TypeError)]
)
def test_wrong_options(beta: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="`beta` must be"):
        TrimmedMean(beta=beta)
