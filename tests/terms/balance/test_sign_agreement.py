"""The AND-mask against its definition, coordinate by coordinate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lossproof.terms import TermGradients
from lossproof.terms.balance.sign_agreement import SignAgreement

SCALES = st.sampled_from([1e-20, 1e-12, 1e-4, 1.0, 1e6, 1e20])
SEEDS = st.integers(0, 10**6)
TAUS = st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.6, 1.0])


def gradients(seed: int, count: int, size: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, size)))


def step_of(matrix: torch.Tensor, **options: object) -> torch.Tensor:
    figures = TermGradients.from_matrix(matrix)
    balancer = SignAgreement(figures.names, **options)
    (step,) = balancer.gradients_of(figures, balancer.weights_of(figures)).values()
    return step


def by_definition(matrix: torch.Tensor, tau: float) -> torch.Tensor:
    """Counted with whole numbers: |positive - negative| >= tau K."""
    step = torch.zeros_like(matrix[0])
    for at, column in enumerate(matrix.T):
        positive, negative = int((column > 0).sum()), int((column < 0).sum())
        if abs(positive - negative) - tau * (positive + negative) > -1e-9:
            step[at] = sum(column.tolist()) / len(column)
    return step


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 8), TAUS, SCALES)
def test_the_step_is_the_masked_mean(seed: int, count: int, tau: float, scale: float) -> None:
    matrix = scale * gradients(seed, count)
    wanted = by_definition(matrix, tau)
    kwargs = {"rtol": 1e-9, "atol": 1e-12 * scale}
    torch.testing.assert_close(step_of(matrix, tau=tau), wanted, **kwargs)
    torch.testing.assert_close(step_of(matrix, tau=tau, reduction="sum"), count * wanted, **kwargs)
    kept = float((wanted != 0).double().mean())
    rescaled = step_of(matrix, tau=tau, rescale=True)
    torch.testing.assert_close(rescaled, wanted / kept if kept else wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("column", "tau", "wanted"),
    [
        ([1.0, 2.0, 3.0], 1.0, 2.0),
        ([1.0, 2.0, -3.0], 1.0, 0.0),
        ([1.0, 2.0, -6.0], 1 / 3, -1.0),  # two against one agree by a third, on no sign of the mean
        ([1.0, 2.0, -6.0], 0.34, 0.0),
        ([1.0, 1.0, 1.0, 1.0, -1.0], 0.6, 0.6),
        ([1.0, -1.0], 0.0, 0.0),
        ([3.0, -1.0], 0.0, 1.0),
        ([4.0, 0.0, 0.0, 0.0], 1.0, 1.0),  # zeros have no vote
        ([0.0, 0.0], 1.0, 0.0),
        ([-2.0], 1.0, -2.0),
    ],
)
def test_by_hand(column: list[float], tau: float, wanted: float) -> None:
    assert step_of(torch.tensor(column)[:, None], tau=tau).item() == pytest.approx(wanted)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), TAUS)
def test_all_agreeing_terms_are_lowered_where_all_must(
    seed: int, dtype: torch.dtype, tau: float
) -> None:
    """With tau = 1 no coordinate moves against a term."""
    matrix = gradients(seed, 4).to(dtype)
    step = step_of(matrix)
    assert step.dtype == dtype
    assert bool((matrix * step >= 0).all())
    kept = step_of(matrix, tau=tau) != 0
    assert bool((kept | (step == 0)).all())  # a lower threshold keeps more


@settings(max_examples=25)
@given(SEEDS, TAUS)
def test_permutation(seed: int, tau: float) -> None:
    matrix = gradients(seed, 5)
    order = np.random.default_rng(seed).permutation(5)
    torch.testing.assert_close(step_of(matrix[order], tau=tau), step_of(matrix, tau=tau))


@pytest.mark.parametrize(("reduction", "weight"), [("mean", 0.5), ("sum", 1.0)])
def test_a_head_is_trained_by_its_own_term(reduction: str, weight: float) -> None:
    """The other term does not depend on it, which is no disagreement."""
    x = torch.randn(6, 3)
    model = nn.ModuleDict({"trunk": nn.Linear(3, 4), "a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
    hidden = model["trunk"](x).tanh()
    terms = {name: model[name](hidden).square().mean() for name in ("a", "b")}
    alone = torch.autograd.grad(terms["a"], model["a"].weight, retain_graph=True)[0]
    step = SignAgreement(reduction=reduction).backward(terms, model)
    torch.testing.assert_close(model["a"].weight.grad, weight * alone)
    assert step.weights.tolist() == [weight, weight]


def test_a_parameter_that_no_term_reaches_is_left_alone() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    out = model["used"](torch.randn(4, 3))
    SignAgreement().backward({"a": out.sum(), "b": out.square().sum()}, model)
    assert model["unused"].weight.grad is None
    assert model["used"].weight.grad is not None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tau": -0.1}, ValueError, "`tau` must be"),
        ({"tau": 1.1}, ValueError, "`tau` must be"),
        ({"tau": "all"}, TypeError, "`tau` must be"),
        ({"reduction": "none"}, ValueError, "`reduction` must be one of 'mean', 'sum'"),
        ({"rescale": 1}, TypeError, "`rescale` must be"),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SignAgreement(**options)
