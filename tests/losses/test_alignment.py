"""Alignment with preferences: the papers' formulas in mpmath, and sequences of tokens."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F

from lossproof.losses.alignment import (
    KTOLoss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    rso_hinge_loss,
    sequence_log_probs,
)
from lossproof.losses.reference_free_alignment import (
    bradley_terry_loss,
    cpo_loss,
    log_odds,
    orpo_loss,
    simpo_loss,
    slic_loss,
)

Tensor = torch.Tensor
FLOAT64 = torch.float64
CHOSEN = [-3.0, -40.0, -700.0, -1e4]
REJECTED = [-5.0, -12.0, -1e4, -600.0]
CHOSEN_0 = [-4.0, -30.0, -710.0, -9e3]
REJECTED_0 = [-4.5, -20.0, -9e3, -650.0]


def tensors(*rows: list[float], dtype: torch.dtype = FLOAT64) -> list[Tensor]:
    return [torch.tensor(row, dtype=dtype) for row in rows]


def log_sigmoid(x: mpmath.mpf) -> mpmath.mpf:
    return -mpmath.log1p(mpmath.exp(-x))


def margins(beta: float) -> list[mpmath.mpf]:
    rows = zip(CHOSEN, REJECTED, CHOSEN_0, REJECTED_0, strict=True)
    return [beta * (mpmath.mpf(c) - c0 - (mpmath.mpf(r) - r0)) for c, r, c0, r0 in rows]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_dpo_and_its_smoothed_form(smoothing: float) -> None:
    found = dpo_loss(
        *tensors(CHOSEN, REJECTED, CHOSEN_0, REJECTED_0),
        beta=0.3,
        label_smoothing=smoothing,
        reduction="none",
    )
    with mpmath.workdps(60):
        wanted = [
            float(-(1 - mpmath.mpf(smoothing)) * log_sigmoid(h) - smoothing * log_sigmoid(-h))
            for h in margins(0.3)
        ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=FLOAT64), rtol=1e-12, atol=1e-12)


def test_robust_dpo_removes_the_bias_of_wrong_labels() -> None:
    """Its mean over labels, of which a share is flipped, is the loss of the right labels."""
    chosen, rejected, chosen_0, rejected_0 = tensors(CHOSEN[:2], REJECTED[:2], CHOSEN_0, REJECTED_0)
    chosen_0, rejected_0 = chosen_0[:2], rejected_0[:2]
    options = {"reduction": "none", "label_smoothing": 0.2, "robust": True}
    right = dpo_loss(chosen, rejected, chosen_0, rejected_0, **options)
    wrong = dpo_loss(rejected, chosen, rejected_0, chosen_0, **options)
    clean = dpo_loss(chosen, rejected, chosen_0, rejected_0, reduction="none")
    torch.testing.assert_close(0.8 * right + 0.2 * wrong, clean)


def test_dpo_starts_at_log_2_and_stays_finite_at_an_impossible_rejected_answer() -> None:
    policy = torch.tensor([-7.0, -8.0])
    assert dpo_loss(policy, policy - 1, policy, policy - 1).item() == pytest.approx(math.log(2))
    chosen = torch.tensor([-7.0], requires_grad=True)
    loss = dpo_loss(chosen, torch.tensor([-math.inf]), torch.tensor([-7.0]), torch.tensor([-9.0]))
    loss.backward()
    assert loss.item() == 0
    assert chosen.grad is not None
    assert chosen.grad.item() == 0


def test_dpo_pushes_a_pair_that_is_far_the_wrong_way_with_full_force() -> None:
    chosen = torch.tensor([-1e4], requires_grad=True)
    zero = torch.zeros(1)
    dpo_loss(chosen, zero, zero, zero, beta=0.5).backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.5)


def test_ipo_and_hinge() -> None:
    given = tensors(CHOSEN, REJECTED, CHOSEN_0, REJECTED_0)
    gaps = torch.tensor([float(h) for h in margins(1.0)], dtype=FLOAT64)
    torch.testing.assert_close(ipo_loss(*given, tau=0.2, reduction="none"), (gaps - 2.5) ** 2)
    torch.testing.assert_close(
        rso_hinge_loss(*given, beta=0.01, reduction="none"), (1 - 0.01 * gaps).clamp(min=0)
    )


def test_kto() -> None:
    policy, reference = tensors(CHOSEN, CHOSEN_0)
    desirable = torch.tensor([True, False, True, False])
    found = kto_loss(
        policy,
        reference,
        desirable,
        torch.tensor(1.5, dtype=FLOAT64),
        beta=0.2,
        desirable_weight=1.3,
        undesirable_weight=0.7,
        reduction="none",
    )
    wanted = []
    with mpmath.workdps(400):
        for p, r, good in zip(CHOSEN, CHOSEN_0, desirable.tolist(), strict=True):
            gain = mpmath.mpf(0.2) * (mpmath.mpf(p) - r - 1.5)
            happy = 1 / (1 + mpmath.exp(-gain))
            wanted.append(float(1.3 * (1 - happy) if good else mpmath.mpf(0.7) * happy))
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=FLOAT64), rtol=1e-12, atol=0)


def test_the_reference_point_of_kto_is_never_negative_and_gets_no_gradient() -> None:
    policy, reference = torch.randn(5), torch.randn(5)
    desirable = torch.tensor([True, True, False, False, True])
    kl = torch.tensor(-3.0, requires_grad=True)
    loss = kto_loss(policy.requires_grad_(), reference, desirable, kl)
    assert loss == kto_loss(policy, reference, desirable, torch.tensor(0.0))
    loss.backward()
    assert kl.grad is None
    assert KTOLoss(beta=0.5)(policy, reference, desirable, torch.tensor(0.0)).ndim == 0


def test_bradley_terry_with_a_margin_is_a_logistic_regression() -> None:
    chosen, rejected, margin = torch.randn(3, 6, dtype=FLOAT64).unbind()
    for given in ((chosen, rejected), (chosen, rejected, margin)):
        logits = chosen - rejected - (margin if len(given) == 3 else 0)
        wanted = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.9))
        torch.testing.assert_close(bradley_terry_loss(*given, label_smoothing=0.1), wanted)


def test_simpo_cpo_and_slic() -> None:
    chosen, rejected = torch.randn(2, 6, dtype=FLOAT64).unbind()
    gap = chosen - rejected
    torch.testing.assert_close(
        simpo_loss(chosen, rejected, beta=2.5, gamma=0.8), F.softplus(0.8 - 2.5 * gap).mean()
    )
    torch.testing.assert_close(
        cpo_loss(chosen, rejected, beta=0.4, alpha=0.5, label_smoothing=0.1),
        (0.9 * F.softplus(-0.4 * gap) + 0.1 * F.softplus(0.4 * gap) - 0.5 * chosen).mean(),
    )
    torch.testing.assert_close(
        slic_loss(chosen, rejected, delta=0.3), (0.3 - gap).clamp(min=0).mean()
    )


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_log_odds_from_certain_to_impossible(dtype: torch.dtype) -> None:
    """From p = 1 - 1e-6, where 1 - p cancels, to p = e^-10000, which is no float."""
    points = torch.tensor([-1e-6, -1e-3, -0.3, -0.69, -0.7, -3.0, -100.0, -1e4], dtype=dtype)
    leaf = points.clone().requires_grad_()
    found = log_odds(leaf)
    (slope,) = torch.autograd.grad(found.sum(), leaf)
    with mpmath.workdps(60):
        exact = [mpmath.mpf(x) for x in points.tolist()]
        wanted = [float(x - mpmath.log(-mpmath.expm1(x))) for x in exact]
        slopes = [float(-1 / mpmath.expm1(x)) for x in exact]
    rtol = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=dtype), rtol=rtol, atol=rtol)
    torch.testing.assert_close(slope, torch.tensor(slopes, dtype=dtype), rtol=rtol, atol=0)


def test_orpo() -> None:
    chosen, rejected = tensors([-0.2, -2.0], [-1.5, -0.4])
    probabilities = chosen.exp(), rejected.exp()
    odds = [p / (1 - p) for p in probabilities]
    wanted = -chosen - 0.3 * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1])))
    torch.testing.assert_close(orpo_loss(chosen, rejected, beta=0.3, reduction="none"), wanted)


@pytest.mark.parametrize("chosen", [0.0, -1.0, -1e4])
@pytest.mark.parametrize("rejected", [0.0, -1.0, -1e4])
def test_orpo_is_finite_for_certain_and_impossible_answers(chosen: float, rejected: float) -> None:
    leaves = [torch.tensor([x], requires_grad=True) for x in (chosen, rejected)]
    loss = orpo_loss(*leaves)
    gradients = torch.autograd.grad(loss, leaves)
    assert all(x.isfinite().all() for x in (loss, *gradients))
    assert gradients[0] < 0 <= gradients[1]


def test_orpo_refuses_what_is_no_log_probability() -> None:
    with pytest.raises(ValueError, match="`policy_rejected` must hold numbers of at most 0, got 2"):
        orpo_loss(torch.tensor([-1.0]), torch.tensor([2.0]))
    mask = torch.tensor([True, False])
    given = torch.tensor([-1.0, 2.0])
    assert orpo_loss(given, given, mask=mask) == orpo_loss(given[:1], given[:1])


def test_pairs_that_do_not_count_may_hold_nan() -> None:
    chosen = torch.tensor([-1.0, math.nan], requires_grad=True)
    mask = torch.tensor([True, False])
    for loss in (simpo_loss, cpo_loss, slic_loss, orpo_loss, bradley_terry_loss):
        value = loss(chosen, torch.tensor([-2.0, math.nan]), mask=mask)
        (slope,) = torch.autograd.grad(value, chosen)
        assert value.isfinite()
        assert slope.isfinite().all()
        assert slope[1] == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: dpo_loss(x, x, x, x[:2]), "`policy_chosen` and `reference_rejected` must have"),
        (lambda x: dpo_loss(x, x, x, x, robust=True, label_smoothing=0.5), "`label_smoothing`"),
        (lambda x: dpo_loss(x, x, x, x, beta=0.0), "`beta` must be a number above 0"),
        (lambda x: ipo_loss(x, x, x, x, tau=-1.0), "`tau`"),
        (lambda x: simpo_loss(x, x[:1]), "must have the same shape"),
        (lambda x: bradley_terry_loss(x, x, x[:1]), "`chosen` and `margin`"),
        (lambda x: kto_loss(x, x, x > 0, x), r"`kl` must have the shape \(\)"),
    ],
)
def test_wrong_calls(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(torch.full((3,), -1.0))  # type: ignore[operator]


class TestSequences:
    def test_is_the_sum_or_mean_of_the_tokens_that_count(self) -> None:
        logits = torch.randn(3, 5, 7, dtype=FLOAT64)
        labels = torch.randint(7, (3, 5))
        labels[0, 2:] = -100
        each = -F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(3, 5)
        torch.testing.assert_close(sequence_log_probs(logits, labels), each.sum(1))
        counts = torch.tensor([2, 5, 5])
        average = sequence_log_probs(logits, labels, average=True)
        torch.testing.assert_close(average, each.sum(1) / counts)

    def test_ignored_tokens_may_hold_nan_and_a_sequence_without_tokens_is_0(self) -> None:
        logits = torch.randn(2, 3, 4)
        logits[0], logits[1, 2] = math.nan, math.inf
        logits.requires_grad_()
        labels = torch.tensor([[-100, -100, -100], [1, 3, -100]])
        for average in (False, True):
            found = sequence_log_probs(logits, labels, average=average)
            (slope,) = torch.autograd.grad(found.sum(), logits)
            assert found[0] == 0
            assert found.isfinite().all()
            assert slope.isfinite().all()
            assert not slope[0].any()

    def test_half_precision_is_summed_in_float32(self) -> None:
        logits = torch.zeros(1, 3000, 50, dtype=torch.bfloat16)
        found = sequence_log_probs(logits, torch.zeros(1, 3000, dtype=torch.long))
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(-3000 * math.log(50), rel=1e-5)

    def test_gradient(self) -> None:
        logits = torch.randn(2, 3, 4, dtype=FLOAT64, requires_grad=True)
        labels = torch.tensor([[0, 1, -100], [3, 2, 1]])
        assert torch.autograd.gradcheck(lambda x: sequence_log_probs(x, labels), logits)

    def test_compiles_whole(self) -> None:
        logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, 1, -100], [3, 2, 1]])
        compiled = torch.compile(sequence_log_probs, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(logits, labels), sequence_log_probs(logits, labels))

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (torch.zeros(2, 4, dtype=torch.long), r"\[2, 3\], got \[2, 4\]"),
            (torch.full((2, 3), 4), "classes from 0 to 3 or ignore_index=-100, got 4"),
        ],
    )
    def test_wrong_labels(self, labels: Tensor, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            sequence_log_probs(torch.zeros(2, 3, 4), labels)
