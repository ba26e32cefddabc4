"""PCGrad and GradVac against their algorithms on whole gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.terms import TermGradients
from lossproof.terms.balance.pcgrad import GradVac, PCGrad, projected, vaccinated
from lossproof.terms.balance.shuffled_pairs import shuffled_pairs

SCALES = st.sampled_from([1e-20, 1e-12, 1e-4, 1.0, 1e6, 1e20])
SEEDS = st.integers(0, 10**6)


def gradients(seed: int, count: int, size: int = 6, scale: float = 1.0) -> np.ndarray:
    """Rows whose norms differ by factors of a hundred."""
    random = np.random.default_rng(seed)
    return scale * random.normal(size=(count, size)) * 10 ** random.uniform(-1, 1, (count, 1))


def figures_of(matrix: np.ndarray) -> TermGradients:
    return TermGradients.from_matrix(torch.from_numpy(matrix))


def some_order(seed: int, count: int) -> torch.Tensor:
    return shuffled_pairs(count, torch.Generator().manual_seed(seed))


def pcgrad_by_the_paper(matrix: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Algorithm 1, on the gradients themselves."""
    total = np.zeros(matrix.shape[1])
    for i, others in enumerate(order):
        changed = matrix[i].copy()
        for j in others:
            dot = changed @ matrix[j]
            if dot < 0:
                changed = changed - dot / (matrix[j] @ matrix[j]) * matrix[j]
        total += changed
    return total


def gradvac_by_the_paper(
    matrix: np.ndarray, order: np.ndarray, target: np.ndarray, beta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1, with one component for the whole model."""
    total, target = np.zeros(matrix.shape[1]), target.copy()
    for i, others in enumerate(order):
        changed = matrix[i].copy()
        for j in others:
            other, goal = matrix[j], target[i, j]
            length = np.linalg.norm(changed)
            phi = changed @ other / (length * np.linalg.norm(other))
            if phi < goal:
                sine, sine_of_goal = np.sqrt(1 - phi**2), np.sqrt(1 - goal**2)
                factor = length * (goal * sine - phi * sine_of_goal)
                changed = changed + factor / (np.linalg.norm(other) * sine_of_goal) * other
            target[i, j] = (1 - beta) * goal + beta * phi
        total += changed
    return total, target


def close(found: torch.Tensor, wanted: np.ndarray, scale: float, rtol: float = 1e-10) -> None:
    assert np.abs(found.numpy() - wanted).max() <= rtol * scale


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 7), SCALES)
def test_pcgrad_is_the_algorithm_of_the_paper(seed: int, count: int, scale: float) -> None:
    matrix, order = gradients(seed, count, scale=scale), some_order(seed, count)
    weights = projected(figures_of(matrix).gramian, order)
    wanted = pcgrad_by_the_paper(matrix, order.numpy())
    assert bool((weights >= 1).all())
    size = (weights.numpy() * np.linalg.norm(matrix, axis=1)).sum()
    close(weights @ torch.from_numpy(matrix), wanted, size)


def test_pcgrad_by_hand() -> None:
    """(1, -1) loses its part along (0, 1), and (0, 1) its part along (1, -1)."""
    weights = PCGrad(("a", "b")).weights_of(figures_of(np.array([[1.0, -1.0], [0.0, 1.0]])))
    assert weights.tolist() == pytest.approx([1.5, 2.0])


def test_pcgrad_depends_on_the_order() -> None:
    matrix = gradients(3, 3, size=2)
    found = set()
    for rows in itertools.product([0, 1], repeat=3):
        others = [[1, 2], [0, 2], [0, 1]]
        order = [pair[::-1] if flip else pair for pair, flip in zip(others, rows, strict=True)]
        weights = projected(figures_of(matrix).gramian, torch.tensor(order))
        close(weights @ torch.from_numpy(matrix), pcgrad_by_the_paper(matrix, np.array(order)), 10)
        found.add(tuple(weights.tolist()))
    assert len(found) > 1


def test_the_order_is_uniform() -> None:
    """Each of the two orders of the others comes for half of the draws, independently by term."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.stack([shuffled_pairs(3, generator) for _ in range(2000)])
    ascending = (drawn[:, :, 0] < drawn[:, :, 1]).double()
    assert ascending.mean(0).sub(0.5).abs().max() < 0.05
    assert torch.corrcoef(ascending.T).sub(torch.eye(3)).abs().max() < 0.08


@settings(max_examples=40)
@given(SEEDS, SCALES, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_pcgrad_of_two_opposes_neither(seed: int, scale: float, dtype: torch.dtype) -> None:
    matrix = torch.from_numpy(gradients(seed, 2)).to(dtype)
    matrix = (matrix.double() * scale).to(dtype)
    figures = TermGradients.from_matrix(matrix)
    weights = PCGrad(figures.names).weights_of(figures)
    exact = matrix.double()
    step = weights @ exact
    assert bool((exact @ step >= -1e-6 * exact.norm(dim=1) * step.norm()).all())


def test_pcgrad_beside_torchjd() -> None:
    """With two terms the order does not matter, so that TorchJD's random one does not either."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(20):
        matrix = torch.from_numpy(gradients(seed, 2))
        figures = TermGradients.from_matrix(matrix)
        found = PCGrad(figures.names).weights_of(figures) @ matrix
        torch.testing.assert_close(found, aggregation.PCGrad()(matrix), rtol=1e-9, atol=1e-12)


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 6), SCALES, st.floats(0, 1))
def test_gradvac_is_the_algorithm_of_the_paper(
    seed: int, count: int, scale: float, beta: float
) -> None:
    target = torch.zeros(count, count, dtype=torch.float64)
    wanted_target = target.numpy().copy()
    for step in range(3):
        matrix, order = gradients(seed + step, count, scale=scale), some_order(seed + step, count)
        weights, target = vaccinated(figures_of(matrix).gramian, order, target, beta)
        wanted, wanted_target = gradvac_by_the_paper(matrix, order.numpy(), wanted_target, beta)
        size = (weights.numpy() * np.linalg.norm(matrix, axis=1)).sum()
        close(weights @ torch.from_numpy(matrix), wanted, size, 1e-7)
        close(target, wanted_target, 1.0, 1e-7)
        assert bool((weights >= 1).all())


def test_gradvac_beside_torchjd() -> None:
    """With two terms, over several steps."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours, theirs = GradVac(("a", "b"), beta=0.3), aggregation.GradVac(beta=0.3, eps=0.0)
    for seed in range(10):
        matrix = torch.from_numpy(gradients(seed, 2))
        found = ours.weights_of(figures_of(matrix.numpy())) @ matrix
        torch.testing.assert_close(found, theirs(matrix), rtol=1e-8, atol=1e-10)


def test_gradvac_with_targets_of_zero_is_pcgrad() -> None:
    for seed in range(5):
        matrix, order = gradients(seed, 4), some_order(seed, 4)
        gramian = figures_of(matrix).gramian
        weights, _ = vaccinated(gramian, order, torch.zeros(4, 4, dtype=torch.float64), 0.0)
        torch.testing.assert_close(weights, projected(gramian, order), rtol=1e-10, atol=0)


def test_gradvac_of_terms_that_were_equal_stays_finite() -> None:
    """The average cosine is 1, and no multiple of the other gradient reaches that."""
    balancer = GradVac(("a", "b"), beta=1.0)
    balancer.weights_of(figures_of(np.array([[1.0, 2.0], [1.0, 2.0]])))
    weights = balancer.weights_of(figures_of(np.array([[1.0, 0.0], [0.0, 1.0]])))
    assert bool(weights.isfinite().all())
    assert bool((weights > 100).all())


@pytest.mark.parametrize("method", [PCGrad, GradVac])
@settings(max_examples=25)
@given(SEEDS, st.integers(2, 6), SCALES)
def test_scale_and_permutation(
    method: type[PCGrad | GradVac], seed: int, count: int, scale: float
) -> None:
    matrix, order = gradients(seed, count), some_order(seed, count)
    permutation = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    target = torch.rand(count, count, dtype=torch.float64)

    def weigh(rows: np.ndarray, order: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        gramian = figures_of(rows).gramian
        return projected(gramian, order) if method is PCGrad else vaccinated(
            gramian, order, target, 0.1
        )[0]  # fmt: skip

    weights = weigh(matrix, order, target)
    torch.testing.assert_close(weigh(scale * matrix, order, target), weights, rtol=1e-6, atol=0)
    place = permutation.argsort()
    moved = weigh(
        matrix[permutation], place[order[permutation]], target[permutation][:, permutation]
    )
    torch.testing.assert_close(moved, weights[permutation], rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", [PCGrad, GradVac])
@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ([[1.0, 2.0]], [1.0]),
        ([[0.0, 0.0]], [1.0]),
        ([[1.0, 0.0], [0.0, 0.0]], [1.0, 1.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [1.0, 1.0]),
        ([[1.0, 2.0], [1.0, 2.0], [2.0, 4.0]], [1.0, 1.0, 1.0]),
        ([[1.0, 1.0], [-1.0, 1.0]], [1.0, 1.0]),
        # Each loses all that it has.
        ([[1.0, 1.0], [-2.0, -2.0]], [3.0, 1.5]),
        # A term that opposes two equal ones is projected once, and they on it each once.
        ([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], [1.5, 1.5, 3.0]),
    ],
)
def test_degenerate_terms(method: type[PCGrad | GradVac], matrix: list, wanted: list) -> None:
    figures = figures_of(np.array(matrix))
    for seed in range(3):
        weights = method(figures.names, seed=seed).weights_of(figures)
        if len(matrix) == 3 and matrix[2][0] < 0:  # one of the two equal terms, by the order
            assert weights.sum().item() == pytest.approx(sum(wanted))
            assert weights[2].item() == pytest.approx(wanted[2])
        else:
            assert weights.tolist() == pytest.approx(wanted)


def test_many_terms_are_finite() -> None:
    for method in (PCGrad, GradVac):
        figures = figures_of(gradients(1, 32, size=40, scale=1e-15))
        assert bool(method(figures.names).weights_of(figures).isfinite().all())


@pytest.mark.parametrize("method", [PCGrad, lambda **given: GradVac(beta=0.5, **given)])
def test_a_resumed_run_is_the_same_to_the_last_bit(method, tmp_path) -> None:
    def step(balancer, seed: int) -> torch.Tensor:
        x = torch.ones(6, dtype=torch.float64, requires_grad=True)
        rows = torch.from_numpy(gradients(seed, 4))
        return balancer.backward({f"t{k}": row @ x for k, row in enumerate(rows)}, [x]).weights

    whole = method(seed=3)
    run = [step(whole, seed) for seed in range(6)]
    first, second = method(seed=3), method(seed=4)
    for seed in range(3):
        step(first, seed)
    torch.save(first.state_dict(), tmp_path / "balancer.pt")
    second.load_state_dict(torch.load(tmp_path / "balancer.pt", weights_only=True))
    for seed in range(3, 6):
        assert torch.equal(step(second, seed), run[seed])


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    figures = figures_of(gradients(0, 6, size=3))
    before = torch.random.get_rng_state()
    first, again, other = (PCGrad(figures.names, seed=seed) for seed in (1, 1, 2))
    weights = first.weights_of(figures)
    assert torch.equal(weights, again.weights_of(figures))
    assert not torch.equal(weights, other.weights_of(figures))
    assert not torch.equal(weights, first.weights_of(figures))  # drawn anew in each step
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"beta": -0.1}, ValueError, "`beta` must be"),
        ({"beta": 1.1}, ValueError, "`beta` must be"),
        ({"beta": "0.1"}, TypeError, "`beta` must be"),
        ({"seed": -1}, ValueError, "`seed` must be"),
        ({"seed": 0.5}, TypeError, "`seed` must be"),
        ({"every": 0}, ValueError, "`every` must be"),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        GradVac(**options)
