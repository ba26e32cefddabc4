"""Divergences: torch.distributions, scipy, mpmath and plain loops over pairs of points."""

from __future__ import annotations

import itertools
import math
from functools import partial

import mpmath
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import jensenshannon

from lossproof.losses.divergences import (
    exponential_excess,
    js_divergence_loss,
    kl_divergence_loss,
    kl_gaussian_loss,
    log_softmax,
)
from lossproof.losses.sample_divergences import (
    energy_distance_loss,
    mmd_loss,
    sinkhorn_loss,
    sliced_wasserstein_loss,
)

Tensor = torch.Tensor
FLOAT64 = torch.float64


class TestGaussian:
    def test_is_the_divergence_from_the_standard_normal(self) -> None:
        mu, log_var = torch.randn(2, 5, 3, dtype=FLOAT64).unbind()
        normal = torch.distributions.Normal(mu, (0.5 * log_var).exp())
        each = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
        torch.testing.assert_close(kl_gaussian_loss(mu, log_var, reduction="none"), each.sum(1))
        torch.testing.assert_close(kl_gaussian_loss(mu, log_var), each.sum() / 5)

    def test_sums_over_maps_and_takes_one_sample(self) -> None:
        mu, log_var = torch.randn(2, 2, 3, 4, 5, dtype=FLOAT64).unbind()
        rows = kl_gaussian_loss(mu.flatten(1), log_var.flatten(1), reduction="none")
        torch.testing.assert_close(kl_gaussian_loss(mu, log_var, reduction="none"), rows)
        one = kl_gaussian_loss(mu[0].flatten(), log_var[0].flatten(), reduction="none")
        torch.testing.assert_close(one, rows[0])

    @pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
    def test_the_excess_of_the_exponential_near_0_and_far(self, dtype: torch.dtype) -> None:
        points = [-1e4, -30.0, -1.0, -0.26, -0.24, -1e-3, -1e-9, 1e-9, 1e-5, 0.1, 0.24, 0.3, 50.0]
        leaf = torch.tensor(points, dtype=dtype, requires_grad=True)
        found = exponential_excess(leaf)
        (slope,) = torch.autograd.grad(found.sum(), leaf)
        with mpmath.workdps(60):
            exact = [mpmath.mpf(x) for x in leaf.tolist()]
            values = [float(mpmath.exp(x) - 1 - x) for x in exact]
            slopes = [float(mpmath.expm1(x)) for x in exact]
        rtol = 6 * torch.finfo(dtype).eps
        torch.testing.assert_close(found, torch.tensor(values, dtype=dtype), rtol=rtol, atol=0)
        torch.testing.assert_close(slope, torch.tensor(slopes, dtype=dtype), rtol=rtol, atol=0)


class TestCategorical:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(-20, 20), min_size=3, max_size=3))
    def test_kl_is_torchs_batchmean(self, logits: list[float]) -> None:
        input = torch.tensor([logits, logits[::-1]], dtype=FLOAT64)
        target = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=FLOAT64)
        wanted = F.kl_div(input.log_softmax(1), target, reduction="batchmean")
        torch.testing.assert_close(kl_divergence_loss(input, target), wanted)

    @pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
    def test_torchs_mean_divides_by_the_classes_too(self) -> None:
        input, target = torch.randn(4, 5).log_softmax(1), torch.randn(4, 5).softmax(1)
        ours = kl_divergence_loss(input, target)
        theirs = F.kl_div(input, target, reduction="mean")
        torch.testing.assert_close(ours, 5 * theirs)

    def test_logits_and_log_probabilities_are_the_same(self) -> None:
        input, target = torch.randn(2, 4, 5, dtype=FLOAT64).unbind()
        wanted = kl_divergence_loss(input, target.softmax(1))
        for given_input in (input, input.log_softmax(1), input + 7):
            found = kl_divergence_loss(given_input, target - 3, log_target=True)
            torch.testing.assert_close(found, wanted)

    @pytest.mark.parametrize("step", [1e-1, 1e-3, 1e-5])
    def test_nothing_cancels_near_the_target(self, step: float) -> None:
        target = torch.tensor([[0.5, 0.25, -1.0, 0.125]])
        input = target + step * torch.tensor([[1.0, -1.0, 0.5, 0.0]])
        for loss in (kl_divergence_loss, js_divergence_loss):
            found = loss(input, target, log_target=True)
            exact = loss(input.double(), target.double(), log_target=True)
            assert found.item() == pytest.approx(exact.item(), rel=3e-5 + 1e-6 / step)

    def test_kl_of_impossible_classes(self) -> None:
        """p log(p / q) is 0 for p = 0, also where q is 0, and infinite for q = 0 alone."""
        input = torch.tensor([0.0, -math.inf, 0.0], requires_grad=True)
        value = kl_divergence_loss(input, torch.tensor([0.5, 0.0, 0.5]))
        (slope,) = torch.autograd.grad(value, input)
        assert value.item() == pytest.approx(0, abs=1e-7)
        assert slope.isfinite().all()
        assert kl_divergence_loss(input, torch.tensor([0.5, 0.5, 0.0])).item() == math.inf

    def test_the_gradient_of_a_confident_mistake_is_the_difference_of_probabilities(self) -> None:
        input = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
        target = torch.tensor([[0.0, 0.25, 0.75]])
        value = kl_divergence_loss(input, target)
        (slope,) = torch.autograd.grad(value, input)
        torch.testing.assert_close(slope, torch.tensor([[1.0, -0.25, -0.75]]))
        entropy = 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
        assert value.item() == pytest.approx(0.25 * 1e4 + 0.75 * 2e4 + entropy)

    def test_js_is_scipys_squared_distance_symmetric_and_at_most_log_2(self) -> None:
        p, q = torch.randn(2, 6, 5, dtype=FLOAT64).softmax(-1).unbind()
        found = js_divergence_loss(q.log(), p, reduction="none")
        wanted = torch.tensor([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)])
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(js_divergence_loss(p.log(), q, reduction="none"), found)
        apart = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1.0]])
        assert js_divergence_loss(*apart).item() == pytest.approx(math.log(2))

    def test_js_has_the_right_second_derivative_at_its_minimum(self) -> None:
        target = torch.tensor([[0.3, -0.2, 1.0]], dtype=FLOAT64)

        def value(input: Tensor) -> Tensor:
            return js_divergence_loss(input, target, log_target=True)

        hessian = torch.autograd.functional.hessian(value, target).squeeze()
        p = target.softmax(1).squeeze()
        torch.testing.assert_close(hessian, (p.diag() - p.outer(p)) / 4)

    def test_log_softmax_keeps_what_a_certain_class_lacks(self) -> None:
        logits = torch.tensor([[20.0, 0.0, -3.0], [0.0, 40.0, 0.0], [1.0, 1.0, 1.0]])
        leaf = logits.clone().requires_grad_()
        found = log_softmax(leaf)
        with mpmath.workdps(60):
            lse = [mpmath.log(sum(map(mpmath.exp, row))) for row in logits.tolist()]
            wanted = [
                [float(x - z) for x in row] for row, z in zip(logits.tolist(), lse, strict=True)
            ]
        torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=0)
        (slope,) = torch.autograd.grad(found.exp().select(1, 0).sum(), leaf)
        p = logits.double().softmax(1)
        jacobian = p[:, :1] * (torch.tensor([[1.0, 0.0, 0.0]]) - p)
        jacobian[0, 0] = p[0, 0] * p[0, 1:].sum()
        torch.testing.assert_close(slope, jacobian.float(), rtol=1e-5, atol=0)

    def test_a_target_that_is_no_probability(self) -> None:
        for loss in (kl_divergence_loss, js_divergence_loss):
            with pytest.raises(ValueError, match="`target` must hold numbers from 0 to 1, got -2"):
                loss(torch.zeros(2, 3), torch.full((2, 3), -2.0))
        mask = torch.tensor([True, False])
        target = torch.tensor([[0.5, 0.5], [math.nan, 7.0]])
        assert kl_divergence_loss(torch.zeros(2, 2), target, mask=mask).item() == pytest.approx(0)


def mean_of_pairs(kernel: object, first: Tensor, second: Tensor, *, own: bool = True) -> float:
    """A plain loop over pairs."""
    pairs = itertools.product(range(len(first)), range(len(second)))
    values = [
        float(kernel(first[i], second[j]))  # type: ignore[operator]
        for i, j in pairs
        if own or i != j
    ]
    return sum(values) / len(values)


def difference(kernel: object, first: Tensor, second: Tensor, *, own: bool) -> float:
    within = mean_of_pairs(kernel, first, first, own=own)
    within += mean_of_pairs(kernel, second, second, own=own)
    return within - 2 * mean_of_pairs(kernel, first, second)


class TestSamples:
    @pytest.fixture
    def points(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        first = torch.randn(5, 3, dtype=FLOAT64, generator=generator)
        return first, torch.randn(7, 3, dtype=FLOAT64, generator=generator) + 0.5

    @pytest.mark.parametrize("estimator", ["biased", "unbiased"])
    def test_mmd_is_the_loop_over_pairs(
        self, points: tuple[Tensor, Tensor], estimator: str
    ) -> None:
        def kernel(a: Tensor, b: Tensor) -> Tensor:
            square = (a - b).square().sum()
            return sum((-square / (2 * width**2)).exp() for width in (0.5, 2.0)) / 2

        found = mmd_loss(*points, bandwidths=(0.5, 2.0), estimator=estimator)
        wanted = difference(kernel, *points, own=estimator == "biased")
        assert found.item() == pytest.approx(wanted, rel=1e-12)

    @pytest.mark.parametrize("estimator", ["biased", "unbiased"])
    def test_energy_distance_is_the_loop_over_pairs(
        self, points: tuple[Tensor, Tensor], estimator: str
    ) -> None:
        found = energy_distance_loss(*points, estimator=estimator)
        wanted = difference(lambda a, b: -(a - b).norm(), *points, own=estimator == "biased")
        assert found.item() == pytest.approx(wanted, rel=1e-12)

    def test_the_default_bandwidth_is_the_median_distance(
        self, points: tuple[Tensor, Tensor]
    ) -> None:
        median = torch.nn.functional.pdist(torch.cat(points)).median().item()
        torch.testing.assert_close(mmd_loss(*points), mmd_loss(*points, bandwidths=median))
        torch.testing.assert_close(mmd_loss(*(1e3 * x for x in points)), mmd_loss(*points))

    def test_the_median_is_held_constant(self, points: tuple[Tensor, Tensor]) -> None:
        median = torch.nn.functional.pdist(torch.cat(points)).median().item()
        leaf = points[0].clone().requires_grad_()
        slopes = [
            torch.autograd.grad(mmd_loss(leaf, points[1], bandwidths=width), leaf)[0]
            for width in (None, median)
        ]
        torch.testing.assert_close(*slopes)

    def test_energy_distance_of_numbers_is_scipys(self) -> None:
        first, second = torch.randn(9, 1, dtype=FLOAT64), torch.randn(6, 1, dtype=FLOAT64) + 1
        wanted = scipy.stats.energy_distance(first.flatten(), second.flatten()) ** 2
        assert energy_distance_loss(first, second).item() == pytest.approx(wanted)

    def test_a_sample_beside_itself_has_value_and_gradient_0_far_from_the_origin(self) -> None:
        leaf = (torch.randn(6, 4) + 1e4).requires_grad_()
        for loss in (mmd_loss, energy_distance_loss):
            value = loss(leaf, leaf.detach())
            (slope,) = torch.autograd.grad(value, leaf)
            assert value.abs() < 1e-5
            assert slope.abs().max() < 1e-5

    def test_equal_points_and_no_points(self) -> None:
        for loss in (mmd_loss, energy_distance_loss):
            for shape, other in (((3, 2), (4, 2)), ((0, 2), (4, 2)), ((3, 2), (0, 2))):
                leaf = torch.ones(shape, requires_grad=True)
                value = loss(leaf, torch.ones(other))
                (slope,) = torch.autograd.grad(value, leaf)
                assert value == 0
                assert not slope.any()

    def test_the_unbiased_estimators_have_mean_0_for_one_distribution(self) -> None:
        generator = torch.Generator().manual_seed(1)
        for loss in (mmd_loss, energy_distance_loss):
            draws = torch.randn(400, 2, 6, 2, generator=generator, dtype=FLOAT64)
            options = {"bandwidths": 1.0} if loss is mmd_loss else {}
            found = torch.stack(
                [loss(a, b, estimator="unbiased", **options) for a, b in draws]  # type: ignore[operator]
            )
            assert found.mean().abs() < 4 * found.std() / 20

    def test_sliced_wasserstein_of_numbers_is_scipys(self) -> None:
        first, second = torch.randn(9, 1, dtype=FLOAT64), torch.randn(9, 1, dtype=FLOAT64) + 1
        found = sliced_wasserstein_loss(first, second, -3 * torch.ones(1, 1, dtype=FLOAT64), p=1)
        wanted = scipy.stats.wasserstein_distance(first.flatten(), second.flatten())
        assert found.item() == pytest.approx(wanted)

    def test_samples_that_nearly_agree_in_float32(self) -> None:
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(100, 5, generator=generator)
        near = points + 1e-4 * torch.randn(100, 5, generator=generator)
        for loss in (partial(mmd_loss, bandwidths=0.5), energy_distance_loss):
            assert abs(loss(points, points.flip(0)).item()) < 1e-8
            wanted = loss(points.double(), near.double()).item()
            assert loss(points, near).item() == pytest.approx(wanted, rel=0.1)

    def test_sliced_wasserstein_of_points_of_two_dtypes(self) -> None:
        points, directions = torch.randn(6, 2), torch.randn(3, 2)
        wide = sliced_wasserstein_loss(points, points.double() + 1, directions)
        assert wide.dtype == FLOAT64
        narrow = sliced_wasserstein_loss(points, points + 1, directions.double())
        assert narrow.dtype == torch.float32
        assert narrow.item() == pytest.approx(wide.item(), rel=1e-4)

    def test_sliced_wasserstein_of_a_shift(self) -> None:
        """All points move alike: the mean over directions of (shift . direction)^2 is |s|^2 / D."""
        points, shift = torch.randn(6, 2, dtype=FLOAT64), torch.tensor([3.0, 4.0], dtype=FLOAT64)
        angles = torch.linspace(0, math.pi, 101, dtype=FLOAT64)[:-1]
        directions = torch.stack((angles.cos(), angles.sin()), 1)
        found = sliced_wasserstein_loss(points, points[torch.randperm(6)] + shift, directions)
        assert found.item() == pytest.approx(25 / 2)

    def test_sinkhorn_goes_from_the_means_to_the_best_assignment(
        self, points: tuple[Tensor, Tensor]
    ) -> None:
        first, second = points[0], points[1][:5]
        means = (first.mean(0) - second.mean(0)).square().sum()
        wide = sinkhorn_loss(first, second, epsilon=1e5)
        assert wide.item() == pytest.approx(means.item(), rel=1e-3)
        cost = torch.cdist(first, second).square()
        best = cost[linear_sum_assignment(cost.numpy())].mean()
        narrow = sinkhorn_loss(first, second, epsilon=1e-3, iterations=3000)
        assert narrow.item() == pytest.approx(best.item(), rel=1e-3)

    def test_sinkhorn_at_its_optimum_is_the_primal_objective(
        self, points: tuple[Tensor, Tensor]
    ) -> None:
        """Transport plans by plain matrix scaling, and their cost and entropy."""

        def transport(first: Tensor, second: Tensor) -> Tensor:
            cost = torch.cdist(first, second).square()
            product = 1 / cost.numel()
            plan = (-cost / 2).exp()
            for _ in range(2000):
                plan = plan / plan.sum(1, keepdim=True) / len(first)
                plan = plan / plan.sum(0, keepdim=True) / len(second)
            return (plan * cost).sum() + 2 * (plan * (plan / product).log()).sum()

        first, second = points
        own = transport(first, first) + transport(second, second)
        wanted = transport(first, second) - own / 2
        found = sinkhorn_loss(first, second, epsilon=2.0, iterations=200)
        torch.testing.assert_close(found, wanted)

    @pytest.mark.parametrize("iterations", [1, 20])
    def test_sinkhorn_of_equal_samples_is_0_with_gradient_0(self, iterations: int) -> None:
        leaf = (torch.randn(6, 2) + 100).requires_grad_()
        value = sinkhorn_loss(leaf, leaf.detach(), iterations=iterations)
        (slope,) = torch.autograd.grad(value, leaf)
        assert value.abs() < 1e-9
        assert slope.abs().max() < 1e-6

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda x: mmd_loss(x, x[:, :1]), ValueError, "points of as many numbers"),
            (lambda x: mmd_loss(x, x, bandwidths=0.0), ValueError, "`bandwidths` must be"),
            (lambda x: mmd_loss(x, x, bandwidths=()), ValueError, "at least one number"),
            (lambda x: mmd_loss(x, x, bandwidths="wide"), TypeError, "`bandwidths` must be"),
            (lambda x: mmd_loss(x, x[:1], estimator="unbiased"), ValueError, "two points of each"),
            (lambda x: energy_distance_loss(x, x, estimator="u"), ValueError, "`estimator` must"),
            (lambda x: energy_distance_loss(x[0], x), ValueError, r"shape \(N, D\)"),
            (lambda x: sliced_wasserstein_loss(x, x[:2], x), ValueError, "as many points"),
            (lambda x: sinkhorn_loss(x, x, epsilon=0), ValueError, "`epsilon` must be a number"),
            (lambda x: sinkhorn_loss(x, x, iterations=0), ValueError, "`iterations` must be"),
            (lambda x: sliced_wasserstein_loss(x, x, x, p=3), ValueError, "`p` must be 1 or 2"),
        ],
    )
    def test_wrong_calls(self, call: object, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            call(torch.randn(3, 2))  # type: ignore[operator]
