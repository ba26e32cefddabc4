"""Distillation: the divergences in mpmath, torch's own, and the limits of the generalised JSD."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F

from lossproof.losses.distillation import gkd_jsd_loss, kd_kl_loss, z_loss
from lossproof.losses.divergences import js_divergence_loss, kl_divergence_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64


def probabilities(logits: Tensor) -> list[mpmath.mpf]:
    powers = [mpmath.exp(mpmath.mpf(x)) for x in logits.tolist()]
    return [power / sum(powers) for power in powers]


def kl(p: list[mpmath.mpf], q: list[mpmath.mpf]) -> mpmath.mpf:
    return sum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True))


def jsd(p: list[mpmath.mpf], q: list[mpmath.mpf], beta: float) -> mpmath.mpf:
    mixture = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_is_torchs_kl_with_the_square_of_the_temperature(temperature: float) -> None:
    student, teacher = torch.randn(2, 6, 5, dtype=FLOAT64).unbind()
    wanted = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    torch.testing.assert_close(kd_kl_loss(student, teacher, temperature=temperature), wanted)


def test_kd_divides_by_items_wherever_they_lie() -> None:
    """Torch's batchmean divides by the first axis alone."""
    student, teacher = torch.randn(2, 6, 5, dtype=FLOAT64).unbind()
    as_rows = kd_kl_loss(student, teacher)
    as_pixels = [x.view(2, 3, 5).movedim(2, 1) for x in (student, teacher)]
    torch.testing.assert_close(kd_kl_loss(*as_pixels), as_rows)


@pytest.mark.parametrize("temperature", [20.0, 100.0])
def test_kd_at_a_high_temperature_matches_centred_logits(temperature: float) -> None:
    """Hinton and others, eq. 4: the gradient is the difference of the logits over N classes."""
    student = torch.randn(1, 5, dtype=FLOAT64, requires_grad=True)
    teacher = torch.randn(1, 5, dtype=FLOAT64)
    (slope,) = torch.autograd.grad(kd_kl_loss(student, teacher, temperature=temperature), student)
    centred = [x - x.mean(1, keepdim=True) for x in (student.detach(), teacher)]
    torch.testing.assert_close(slope, (centred[0] - centred[1]) / 5, rtol=0, atol=2 / temperature)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_gkd_against_mpmath(beta: float, scale: float) -> None:
    student, teacher = torch.randn(2, 4, 5, dtype=FLOAT64, generator=seeded()).unbind()
    student = student * scale
    found = gkd_jsd_loss(student, teacher, beta=beta, reduction="none")
    with mpmath.workdps(60):
        for value, s, t in zip(found.tolist(), student, teacher, strict=True):
            p, q = probabilities(t), probabilities(s)
            wanted = {0.0: kl(p, q), 1.0: kl(q, p)}.get(beta) or jsd(p, q, beta)
            assert value == pytest.approx(float(wanted), rel=1e-12)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_gkd_over_beta_goes_to_the_kl_divergences() -> None:
    student, teacher = torch.randn(2, 4, 5, dtype=FLOAT64).unbind()
    near = 1e-6
    for end, beta in ((0.0, near), (1.0, 1 - near)):
        limit = gkd_jsd_loss(student, teacher, beta=beta) / near
        torch.testing.assert_close(
            limit, gkd_jsd_loss(student, teacher, beta=end), rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-5])
def test_near_the_teacher_nothing_cancels(beta: float, step: float) -> None:
    """The value is of the order of the squared step, below the rounding of the probabilities."""
    teacher = torch.tensor([[0.5, 0.25, -1.0, 0.125]])
    student = teacher + step * torch.tensor([[1.0, -1.0, 0.5, 0.0]])
    found = gkd_jsd_loss(student, teacher, beta=beta)
    exact = gkd_jsd_loss(student.double(), teacher.double(), beta=beta)
    assert found.item() == pytest.approx(exact.item(), rel=3e-5 + 1e-6 / step)
    assert found > 0


def test_classes_that_neither_may_choose() -> None:
    """A vocabulary masked by -inf in both: they give nothing, and no NaN."""
    free = torch.randn(2, 3, 4, dtype=FLOAT64)
    wall = torch.full((3, 2), -math.inf, dtype=FLOAT64)
    student, teacher = (torch.cat((x, wall), 1) for x in free)
    student.requires_grad_()
    for beta in (0.0, 0.5, 1.0):
        value = gkd_jsd_loss(student, teacher, beta=beta)
        torch.testing.assert_close(value, gkd_jsd_loss(free[0], free[1], beta=beta))
        (slope,) = torch.autograd.grad(value, student)
        assert slope.isfinite().all()


def test_ignored_tokens_may_hold_nan() -> None:
    student, teacher = torch.randn(2, 4, 5).unbind()
    student[1], teacher[2] = math.nan, math.inf
    student.requires_grad_()
    mask = torch.tensor([True, False, False, True])
    for loss in (kd_kl_loss, gkd_jsd_loss):
        value = loss(student, teacher, mask=mask)
        kept = loss(student.detach()[mask], teacher[mask])
        torch.testing.assert_close(value.detach(), kept)
        assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_all_gradients() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=FLOAT64, requires_grad=True).unbind()
    for beta in (0.0, 0.3, 1.0):
        call = lambda s, t, beta=beta: gkd_jsd_loss(s, t, beta=beta, temperature=2.0)  # noqa: E731
        assert torch.autograd.gradcheck(call, (student, teacher))
        assert torch.autograd.gradgradcheck(call, (student, teacher), atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_gradient_of_large_batches_is_that_of_small_ones(scale: float) -> None:
    """Large batches take a formula for the gradient, small ones autograd."""
    student, teacher = torch.randn(2, 600, 500, generator=seeded()).unbind()
    student, mask = (scale * student).requires_grad_(), torch.arange(600) % 3 > 0
    calls = {
        "kd": lambda s, t, m: kd_kl_loss(s, t, temperature=3.0, mask=m, reduction="sum"),
        "gkd": lambda s, t, m: gkd_jsd_loss(
            s, t, beta=0.2, temperature=3.0, mask=m, reduction="sum"
        ),
        "forward": lambda s, t, m: gkd_jsd_loss(s, t, beta=0.0, mask=m, reduction="sum"),
        "kl": lambda s, t, m: kl_divergence_loss(s, t.softmax(1), mask=m, reduction="sum"),
        "js": lambda s, t, m: js_divergence_loss(s, t, log_target=True, mask=m, reduction="sum"),
    }
    for name, call in calls.items():
        value = call(student, teacher, mask)
        (slope,) = torch.autograd.grad(value, student)
        parts = list(zip(student.split(60), teacher.split(60), mask.split(60), strict=True))
        small = sum(call(*part) for part in parts)
        (wanted,) = torch.autograd.grad(small, student)  # type: ignore[arg-type]
        torch.testing.assert_close(value, small, msg=name)
        largest = float(wanted.abs().max())
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_z_loss() -> None:
    logits = torch.tensor([[0.0, 0.0], [-1e4, -1e4], [1e4, 0.0]], dtype=FLOAT64)
    wanted = torch.tensor([math.log(2) ** 2, (math.log(2) - 1e4) ** 2, 1e8], dtype=FLOAT64)
    torch.testing.assert_close(z_loss(logits, reduction="none"), wanted)
    assert z_loss(torch.zeros(2)).item() == pytest.approx(math.log(2) ** 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: kd_kl_loss(x, x[:1]), "same shape"),
        (lambda x: kd_kl_loss(x, x, temperature=0.0), "`temperature` must be a number above 0"),
        (lambda x: gkd_jsd_loss(x, x, beta=1.5), "`beta` must be a number of at least 0 and"),
        (lambda x: z_loss(x.sum()), r"`input` must have the shape \(N, C, \*\)"),
    ],
)
def test_wrong_calls(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(2, 3))  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(8, 0), (0,), (2, 0, 3)])
def test_logits_without_a_class(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`input` must have at least one class"):
        z_loss(torch.ones(shape))
    with pytest.raises(ValueError, match="`input` must have at least one class"):
        kl_divergence_loss(torch.ones(shape), torch.ones(shape))
