"""Self-supervised losses against sums written out in loops, and at the edges of their domain."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lossproof.losses.self_supervised import (
    DINOLoss,
    barlow_twins_loss,
    dino_loss,
    koleo_loss,
    negative_cosine_loss,
    vicreg_loss,
)

Tensor = torch.Tensor


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def naive_barlow_twins(one: Tensor, other: Tensor, lambd: float, eps: float) -> float:
    a, b = one.numpy(), other.numpy()
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            covariance = np.mean((a[:, i] - a[:, i].mean()) * (b[:, j] - b[:, j].mean()))
            c = covariance / math.sqrt((a[:, i].var() + eps) * (b[:, j].var() + eps))
            total += (1 - c) ** 2 if i == j else lambd * c**2
    return total


# Both ways to the sum of squares: more samples than features, and more features than samples.
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (2, 4), (2, 3)])
@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.1])
def test_barlow_twins_by_its_definition(shape: tuple[int, int], eps: float) -> None:
    one, other = draw(*shape), draw(*shape)
    wanted = naive_barlow_twins(one, other, 0.3, eps)
    assert barlow_twins_loss(one, other, lambd=0.3, eps=eps).item() == pytest.approx(wanted)
    if shape != (2, 4) and shape != (2, 3):  # two samples: the gradient is 0 but for rounding
        leaves = one.requires_grad_(), other.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda *views: barlow_twins_loss(*views, lambd=0.3, eps=eps), leaves
        )


def test_barlow_twins_of_few_samples_keeps_no_matrix_of_features() -> None:
    one, other = torch.randn(8, 64, requires_grad=True), torch.randn(8, 64)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        barlow_twins_loss(one, other)
    assert sizes and max(sizes) <= 8 * 64


def test_identical_views_of_independent_features_are_not_penalised() -> None:
    features = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    assert barlow_twins_loss(features, features, eps=0.0) == 0


@pytest.mark.parametrize("samples", [6, 40])
def test_barlow_twins_in_float32(samples: int) -> None:
    one = torch.randn(samples, 20)
    other = one + 1e-3 * torch.randn(samples, 20)
    wanted = barlow_twins_loss(one.double(), other.double())
    torch.testing.assert_close(barlow_twins_loss(one, other), wanted.float(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_a_constant_feature_has_no_correlation(shape: tuple[int, int], eps: float) -> None:
    one, other = draw(*shape), draw(*shape)
    one[:, 0] = 4.0
    wanted = naive_barlow_twins(one, other, 0.005, eps or 1e-300)
    one.requires_grad_()
    found = barlow_twins_loss(one, other, eps=eps)
    found.backward()
    assert found.item() == pytest.approx(wanted) and one.grad.isfinite().all()


@pytest.mark.parametrize("loss", [barlow_twins_loss, vicreg_loss])
@pytest.mark.parametrize("samples", [0, 1])
def test_a_batch_without_two_samples_has_no_statistics(
    loss: Callable[..., Tensor], samples: int
) -> None:
    one = draw(samples, 3).requires_grad_()
    found = loss(one, one.detach().clone())
    found.backward()
    assert found == 0 and not one.grad.any()


def naive_vicreg(one: Tensor, other: Tensor, gamma: float, eps: float) -> tuple[float, ...]:
    a, b = one.numpy(), other.numpy()
    features = a.shape[1]
    invariance = float(np.mean((a - b) ** 2))
    variance = covariance = 0.0
    for view in (a, b):
        matrix = np.cov(view, rowvar=False)
        variance += sum(
            max(0.0, gamma - math.sqrt(matrix[j, j] + eps)) for j in range(features)
        ) / (2 * features)
        covariance += (
            sum(matrix[i, j] ** 2 for i in range(features) for j in range(features) if i != j)
            / features
        )
    return invariance, variance, covariance


@pytest.mark.parametrize("scale", [0.3, 1.0, 100.0])
def test_vicreg_by_its_definition(scale: float) -> None:
    one, other = scale * draw(8, 4), scale * draw(8, 4)
    terms = naive_vicreg(one, other, 1.3, 1e-3)
    coefficients = ("sim_coeff", "std_coeff", "cov_coeff")
    for name, term in zip(coefficients, terms, strict=True):
        only = {**dict.fromkeys(coefficients, 0.0), name: 2.0}
        found = vicreg_loss(one, other, gamma=1.3, eps=1e-3, **only)
        assert found.item() == pytest.approx(2 * term), name
    whole = 25 * terms[0] + 25 * terms[1] + terms[2]
    assert vicreg_loss(one, other, gamma=1.3, eps=1e-3).item() == pytest.approx(whole)
    leaves = one.requires_grad_(), other.requires_grad_()
    assert torch.autograd.gradcheck(lambda *v: vicreg_loss(*v, gamma=1.3, eps=1e-3), leaves)


def test_collapsed_views_have_a_finite_gradient_in_vicreg() -> None:
    one = torch.ones(4, 3, requires_grad=True)
    found = vicreg_loss(one, torch.ones(4, 3))
    found.backward()
    assert found.item() == pytest.approx(25 * (1 - 0.01)) and one.grad.isfinite().all()


def test_negative_cosine_by_its_definition() -> None:
    p, z = draw(2, 5, 4), draw(2, 5, 4)
    found = negative_cosine_loss(p, z, reduction="none")
    torch.testing.assert_close(found, -functional.cosine_similarity(p, z, dim=-1))
    assert torch.autograd.gradcheck(lambda x: negative_cosine_loss(x, z), p.requires_grad_())


def test_negative_cosine_gives_its_target_no_gradient() -> None:
    p, z = draw(5, 4).requires_grad_(), draw(5, 4).requires_grad_()
    negative_cosine_loss(p, z).backward()
    assert p.grad.any() and z.grad is None


@given(exponent=st.integers(-36, 36))
def test_negative_cosine_of_any_length(exponent: int) -> None:
    p, z = torch.tensor([[3.0, 4.0]]) * 10.0**exponent, torch.tensor([[1.0, 0.0]])
    assert negative_cosine_loss(p, z).item() == pytest.approx(-0.6)


def test_negative_cosine_of_zeros_is_zero_with_a_finite_gradient() -> None:
    p = torch.zeros(2, 3, requires_grad=True)
    found = negative_cosine_loss(p, torch.randn(2, 3))
    found.backward()
    assert found == 0 and p.grad.isfinite().all()


def test_negative_cosine_leaves_masked_pairs_out() -> None:
    p, z = draw(3, 4), draw(3, 4)
    mask = torch.tensor([True, False, True])
    wanted = negative_cosine_loss(p[mask], z[mask])
    p[1], z[1] = math.nan, math.inf
    p.requires_grad_()
    found = negative_cosine_loss(p, z, mask=mask)
    found.backward()
    torch.testing.assert_close(found, wanted)
    assert p.grad.isfinite().all()


def naive_koleo(points: Tensor, eps: float) -> list[float]:
    units = functional.normalize(points, dim=1)
    nearest = [
        min(float((u - v).norm()) for j, v in enumerate(units) if j != i)
        for i, u in enumerate(units)
    ]
    return [-0.5 * math.log(d**2 + eps**2) for d in nearest]


@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_koleo_by_its_definition(eps: float) -> None:
    points = draw(7, 3)
    wanted = torch.tensor(naive_koleo(points, eps), dtype=torch.float64)
    torch.testing.assert_close(koleo_loss(points, eps=eps, reduction="none"), wanted)
    assert torch.autograd.gradcheck(lambda x: koleo_loss(x, eps=eps), points.requires_grad_())


def test_koleo_tells_near_neighbours_apart() -> None:
    angles = torch.tensor([0.0, 1e-5, 1.2e-4, 1.0])
    points = torch.stack((angles.cos(), angles.sin()), 1)
    wanted = [1e-5, 1e-5, 1.1e-4, 2 * math.sin(0.49994)]
    found = koleo_loss(points, reduction="none")
    assert found.tolist() == pytest.approx([-math.log(d) for d in wanted], rel=1e-3)


def test_koleo_of_equal_points_is_finite() -> None:
    points = torch.ones(3, 4, requires_grad=True)
    found = koleo_loss(points)
    found.backward()
    assert found.item() == pytest.approx(-math.log(1e-8)) and not points.grad.any()


def test_koleo_leaves_masked_points_out_as_neighbours() -> None:
    points = draw(6, 3)
    mask = torch.tensor([True, True, False, True, True, False])
    wanted = koleo_loss(points[mask])
    points[2], points[5] = math.nan, math.inf
    points.requires_grad_()
    found = koleo_loss(points, mask=mask)
    found.backward()
    torch.testing.assert_close(found, wanted)
    assert points.grad.isfinite().all() and not points.grad[~mask].any()


@pytest.mark.parametrize("mask", [None, [True], [True, False, False]])
def test_koleo_without_neighbours_is_zero(mask: list[bool] | None) -> None:
    points = draw(len(mask) if mask else 1, 3).requires_grad_()
    found = koleo_loss(points, mask=None if mask is None else torch.tensor(mask))
    found.backward()
    assert found == 0 and not points.grad.any()


def test_dino_by_its_definition() -> None:
    student, teacher, center = draw(5, 4), draw(5, 4), draw(4)
    wanted = functional.cross_entropy(
        student / 0.2, ((teacher - center) / 0.07).softmax(-1), reduction="none"
    )
    temperatures = {"student_temperature": 0.2, "teacher_temperature": 0.07}
    found = dino_loss(student, teacher, center=center, **temperatures, reduction="none")
    torch.testing.assert_close(found, wanted)
    loss = DINOLoss(center=center, **temperatures)
    torch.testing.assert_close(loss(student, teacher), wanted.mean())
    assert "center" in loss.state_dict()
    assert torch.autograd.gradcheck(lambda s: dino_loss(s, teacher), student.requires_grad_())


def test_dino_compares_different_views_only() -> None:
    student, teacher = draw(3, 4, 5), draw(3, 2, 5)
    pairs = [(s, t) for s in range(4) for t in range(2) if s != t]
    each = [dino_loss(student[:, s], teacher[:, t], reduction="none") for s, t in pairs]
    found = dino_loss(student, teacher, reduction="none")
    torch.testing.assert_close(found, torch.stack(each).mean(0))


def test_dino_gives_its_teacher_no_gradient() -> None:
    student, teacher, center = (draw(*s).requires_grad_() for s in ((3, 4), (3, 4), (4,)))
    dino_loss(student, teacher, center=center).backward()
    assert student.grad.any() and teacher.grad is None and center.grad is None


def test_dino_stands_logits_of_any_size() -> None:
    student = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    found = dino_loss(student, torch.tensor([[1e4, 0.0], [1e4, 0.0]]), reduction="none")
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.0, 1e5])
    torch.testing.assert_close(student.grad, torch.tensor([[0.0, 0.0], [-10.0, 10.0]]))


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_dino_leaves_masked_samples_out(shape: tuple[int, ...]) -> None:
    student, teacher = draw(*shape), draw(*shape)
    mask = torch.tensor([True, False, True])
    wanted = dino_loss(student[mask], teacher[mask])
    student[1], teacher[1] = math.nan, math.inf
    student.requires_grad_()
    found = dino_loss(student, teacher, mask=mask)
    found.backward()
    torch.testing.assert_close(found, wanted)
    assert student.grad.isfinite().all() and not student.grad[1].any()


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: barlow_twins_loss(X, X[:3]), ValueError, "must have the same shape"),
        (lambda: barlow_twins_loss(X[0], X[0]), ValueError, r"must have the shape \(N, D\)"),
        (lambda: barlow_twins_loss(X, X, lambd=-1.0), ValueError, "`lambd`"),
        (lambda: barlow_twins_loss(X, X, eps=-1e-5), ValueError, "`eps`"),
        (lambda: vicreg_loss(X, X, sim_coeff=-1.0), ValueError, "`sim_coeff`"),
        (lambda: vicreg_loss(X, X, std_coeff=math.nan), ValueError, "`std_coeff`"),
        (lambda: vicreg_loss(X, X, cov_coeff="1"), TypeError, "`cov_coeff`"),
        (lambda: vicreg_loss(X, X, gamma=-1.0), ValueError, "`gamma`"),
        (lambda: vicreg_loss(X, X, eps=0.0), ValueError, "`eps` must be a number above 0"),
        (lambda: negative_cosine_loss(X, X.int()), TypeError, "`target` must be a floating-point"),
        (lambda: negative_cosine_loss(X, X[0]), ValueError, "must have the same shape"),
        (lambda: negative_cosine_loss(X, X, mask=torch.ones(4)), TypeError, "`mask`"),
        (lambda: koleo_loss(X, eps=0), ValueError, "`eps`"),
        (lambda: koleo_loss(X[0]), ValueError, r"`input` must have the shape \(N, D\)"),
        (lambda: dino_loss(X, X[:, :2]), ValueError, "as many samples and logits"),
        (lambda: dino_loss(X, X[:, None]), ValueError, "`teacher` must have the shape"),
        (lambda: dino_loss(X[:, None], X[:, None]), ValueError, "`student` must have a view"),
        (lambda: dino_loss(X, X, center=X), ValueError, r"`center` must have the shape \(K\)"),
        (lambda: dino_loss(X, X, center=X[:, 0]), ValueError, r"`center` must have the shape \[3"),
        (lambda: dino_loss(X, X, center=0.0), TypeError, "`center` must be a floating-point"),
        (lambda: dino_loss(X, X, student_temperature=0.0), ValueError, "`student_temperature`"),
        (lambda: dino_loss(X, X, teacher_temperature=-1), ValueError, "`teacher_temperature`"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    call: Callable[[], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("shapes", [([6, 5], [6, 5]), ([6, 3, 5], [6, 2, 5])])
def test_inputs_of_two_dtypes_are_compared_in_the_wider(
    shapes: tuple[list[int], list[int]],
) -> None:
    first, second = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    loss = barlow_twins_loss if first.ndim == 2 else dino_loss
    wanted = loss(first.float().double(), second)
    torch.testing.assert_close(loss(first.float(), second).double(), wanted, rtol=1e-5, atol=1e-5)
    swapped = loss(first, second.float())
    torch.testing.assert_close(swapped, loss(first, second.float().double()), rtol=1e-5, atol=1e-5)
