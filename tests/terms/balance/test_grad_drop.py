"""GradDrop against its algorithm on a matrix, with the same random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lossproof.terms import TermGradients
from lossproof.terms.balance.grad_drop import GradDrop
from lossproof.terms.balance.random_stream import RandomStream

SCALES = st.sampled_from([1e-20, 1e-12, 1e-4, 1.0, 1e6, 1e20])
SEEDS = st.integers(0, 10**6)


def gradients(seed: int, count: int, size: int = 8) -> torch.Tensor:
    """Some entries are zero."""
    random = np.random.default_rng(seed)
    kept = random.random((count, size)) < 0.9
    return torch.from_numpy(random.normal(size=(count, size)) * kept)


def step_of(matrix: torch.Tensor, **options: object) -> torch.Tensor:
    figures = TermGradients.from_matrix(matrix)
    balancer = GradDrop(figures.names, **options)
    weights = balancer.weights_of(figures)
    assert weights.tolist() == [1.0] * len(matrix)
    (step,) = balancer.gradients_of(figures, weights).values()
    return step


def by_the_paper(matrix: torch.Tensor, leak: list[float], drawn: torch.Tensor) -> torch.Tensor:
    magnitude = matrix.abs().sum(0)
    purity = 0.5 * (1 + torch.where(magnitude > 0, matrix.sum(0) / magnitude, 0))
    total = torch.zeros_like(matrix[0])
    for row, part in zip(matrix, leak, strict=True):
        mask = (purity > drawn) * (row > 0) + (purity < drawn) * (row < 0)
        total += (part + (1 - part) * mask.double()) * row
    return total


def drawn_with(seed: int, size: int) -> torch.Tensor:
    """The numbers that the balancer draws in its first step."""
    of_step = torch.randint(2**62, (), generator=RandomStream(seed).generator)
    generator = torch.Generator().manual_seed(int(of_step))
    return torch.rand(size, generator=generator, dtype=torch.float64)


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 6), SCALES)
def test_the_step_is_that_of_the_paper(seed: int, count: int, scale: float) -> None:
    matrix = scale * gradients(seed, count)
    leaks = np.random.default_rng(seed).random(count).tolist()
    named = {str(k): leak for k, leak in enumerate(leaks)}
    drawn = drawn_with(seed, 8)
    for options, leak in (
        ({}, [0.0] * count),
        ({"leak": 0.25}, [0.25] * count),
        ({"leak": named}, leaks),
    ):
        found = step_of(matrix, seed=seed, **options)
        wanted = by_the_paper(matrix, leak, drawn)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12 * scale)


def test_each_sign_survives_as_often_as_its_purity_says() -> None:
    """3 against -1: the positive sign stays with the probability 3/4."""
    matrix = torch.tensor([[3.0], [-1.0]]).repeat(1, 20000)
    step = step_of(matrix, seed=1)
    assert set(step.tolist()) == {3.0, -1.0}
    assert (step == 3).double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_beside_torchjd() -> None:
    """TorchJD draws from the global generator: the steps agree on average over the draws."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    matrix = gradients(0, 4, 5)
    leak = torch.tensor([0.0, 0.5, 1.0, 0.2], dtype=torch.float64)
    theirs = aggregation.GradDrop(leak=leak)
    figures = TermGradients.from_matrix(matrix)
    ours = GradDrop(figures.names, leak={str(k): float(part) for k, part in enumerate(leak)})
    mean = torch.stack([theirs(matrix) for _ in range(1500)]).mean(0)
    found = torch.stack(
        [ours.gradients_of(figures, torch.ones(4))["parameter 0"] for _ in range(1500)]
    ).mean(0)
    torch.testing.assert_close(found, mean, atol=0.15, rtol=0)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
def test_without_a_conflict_it_is_the_sum(seed: int, dtype: torch.dtype) -> None:
    matrix = gradients(seed, 3).abs().to(dtype)
    step = step_of(matrix)
    assert step.dtype == dtype
    torch.testing.assert_close(step, matrix.sum(0), rtol=1e-2, atol=1e-2)


@settings(max_examples=25)
@given(SEEDS, SCALES)
def test_scale_and_permutation(seed: int, scale: float) -> None:
    matrix = gradients(seed, 4)
    step = step_of(matrix, seed=3)
    torch.testing.assert_close(step_of(scale * matrix, seed=3), scale * step, rtol=1e-9, atol=0)
    order = np.random.default_rng(seed).permutation(4)
    torch.testing.assert_close(step_of(matrix[order], seed=3), step, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("matrix", [[[0.0, 0.0]], [[1.0, -2.0]], [[1.0, -2.0], [0.0, 0.0]]])
def test_zeros_and_single_terms_leave_the_sum(matrix: list) -> None:
    given_to = torch.tensor(matrix)
    assert torch.equal(step_of(given_to), given_to.sum(0))


def terms_of(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    out = model(x)
    return {"a": out.square().mean(), "b": (out - 2).abs().mean(), "c": out.sum().sin()}


def test_a_step_fills_every_parameter() -> None:
    """Each entry of the gradient is a sum of entries of one sign."""
    x = torch.randn(5, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    rows = {
        name: torch.stack(
            [
                torch.autograd.grad(term, parameter, retain_graph=True)[0]
                for term in terms_of(model, x).values()
            ]
        )
        for name, parameter in model.named_parameters()
    }
    step = GradDrop(seed=5).backward(terms_of(model, x), model)
    assert step.weights.tolist() == [1.0, 1.0, 1.0]
    for name, parameter in model.named_parameters():
        positive, negative = rows[name].clamp_min(0).sum(0), rows[name].clamp_max(0).sum(0)
        distance = torch.minimum(
            (parameter.grad - positive).abs(), (parameter.grad - negative).abs()
        )
        assert distance.max() <= 1e-6


def test_a_resumed_run_is_the_same_to_the_last_bit(tmp_path) -> None:
    x = torch.randn(5, 3)
    model = nn.Linear(3, 2)

    def step(balancer: GradDrop) -> torch.Tensor:
        model.zero_grad()
        balancer.backward(terms_of(model, x), model)
        return model.weight.grad.clone()

    first, second = GradDrop(seed=3), GradDrop(seed=9)
    step(first)
    torch.save(first.state_dict(), tmp_path / "balancer.pt")
    second.load_state_dict(torch.load(tmp_path / "balancer.pt", weights_only=True))
    for _ in range(3):
        assert torch.equal(step(first), step(second))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"leak": -0.1}, ValueError, "`leak` must be"),
        ({"leak": 1.5}, ValueError, "`leak` must be"),
        ({"leak": {"a": 1.5}}, ValueError, "leak\\['a'\\]"),
        ({"leak": "no"}, TypeError, "`leak` must be"),
        ({"leak": {"a": 0.5}, "names": ["a", "b"]}, ValueError, "`leak` must hold a number"),
        ({"seed": -1}, ValueError, "`seed` must be"),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        GradDrop(**options)
