"""Losses of signals beside closed forms and short-time Fourier transforms by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lossproof.losses import (
    MultiResolutionSTFTLoss,
    PITLoss,
    SISDRLoss,
    multi_resolution_stft_loss,
    permutation_invariant_loss,
    si_sdr_loss,
    snr_loss,
)

Tensor = torch.Tensor


def signals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio)


# -- SI-SDR ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_mean", [True, False])
def test_si_sdr_is_the_ratio_of_two_energies(zero_mean: bool) -> None:
    x, y = signals(3, 2, 50) + 0.5, signals(3, 2, 50, seed=1) - 0.3
    expected = []
    for s, t in zip(x.reshape(-1, 50).numpy(), y.reshape(-1, 50).numpy(), strict=True):
        if zero_mean:
            s, t = s - s.mean(), t - t.mean()  # noqa: PLW2901
        part = (s @ t) / (t @ t) * t
        expected.append(-decibels(part @ part / ((s - part) @ (s - part))))
    found = si_sdr_loss(x, y, zero_mean=zero_mean, eps=1e-16, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64).reshape(3, 2))


@pytest.mark.parametrize("noise", [1.0, 1e-1, 1e-3])
def test_orthogonal_noise_has_the_ratio_it_has(noise: float) -> None:
    y = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    x = y + noise * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    assert si_sdr_loss(x, y).item() == pytest.approx(decibels(noise**2), abs=0.05)
    assert snr_loss(x, y).item() == pytest.approx(decibels(noise**2), abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-4, 1e4), st.floats(1e-4, 1e4))
def test_the_volume_does_not_matter_to_si_sdr(seed: int, louder: float, other: float) -> None:
    x, y = signals(20, seed=seed), signals(20, seed=seed + 1)
    torch.testing.assert_close(si_sdr_loss(louder * x, other * y), si_sdr_loss(x, y))


def test_the_limits_are_80_decibels() -> None:
    y = torch.tensor([1.0, -1.0, 2.0, -2.0])
    across = torch.tensor([2.0, -2.0, -1.0, 1.0])
    assert si_sdr_loss(y, y).item() == pytest.approx(-80, rel=1e-6)
    assert si_sdr_loss(across, y).item() == pytest.approx(80, rel=1e-6)
    assert si_sdr_loss(y, y, eps=1e-3).item() == pytest.approx(decibels(1e-3 / 1.001), rel=1e-6)


def test_a_perfect_prediction_is_not_made_louder() -> None:
    """With an absolute stabiliser a louder copy of the target would be better than the target."""
    y = signals(1, 40)
    x = (3 * y).requires_grad_()
    value = si_sdr_loss(x, y)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(value, si_sdr_loss(y, y))
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("loss", [si_sdr_loss, snr_loss])
def test_silence_is_finite(loss) -> None:
    noise, silence = signals(1, 30).float(), torch.zeros(1, 30)
    for x, y in ((noise, silence), (silence, noise), (silence, silence)):
        x = x.clone().requires_grad_()  # noqa: PLW2901
        value = loss(x, y)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite() and gradient.isfinite().all()


def test_what_silence_is_worth() -> None:
    noise, silence = signals(1, 30), torch.zeros(1, 30, dtype=torch.float64)
    assert si_sdr_loss(silence, noise) == 0
    assert si_sdr_loss(noise, silence).item() == pytest.approx(80)
    assert snr_loss(silence, noise).item() == pytest.approx(0, abs=1e-6)
    power = noise.square().mean().item()
    assert snr_loss(noise, silence).item() == pytest.approx(decibels(power))


@pytest.mark.parametrize("level", [0.1, 7.7])
def test_a_constant_signal_is_silence_without_its_mean(level: float) -> None:
    constant, noise = torch.full((16_000,), level), signals(16_000, dtype=torch.float32)
    leaf = constant.clone().requires_grad_()
    value = si_sdr_loss(leaf, noise)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value == 0 and not gradient.any()
    silence = torch.zeros_like(constant)
    for loss in (si_sdr_loss, snr_loss):
        assert loss(noise, constant, zero_mean=True) == loss(noise, silence, zero_mean=True)


@pytest.mark.parametrize("loss", [si_sdr_loss, snr_loss])
def test_loud_signals_are_finite_and_right_in_float32(loss) -> None:
    x, y = signals(2, 1000), signals(2, 1000, seed=1)
    exact = loss(x, y)
    torch.testing.assert_close(loss(1e4 * x.float(), 1e4 * y.float()), exact.float())


@pytest.mark.parametrize("volume", [1e-15, 1e-6])
def test_a_hardly_audible_perfect_prediction_is_finite(volume: float) -> None:
    x = (volume * signals(1, 40).float()).requires_grad_()
    value = si_sdr_loss(x, x.detach())
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == pytest.approx(-80, abs=1e-3) and gradient.isfinite().all()


# -- SNR ------------------------------------------------------------------------------------------


def test_snr_is_the_ratio_of_two_energies() -> None:
    x, y = signals(3, 40) + 1, signals(3, 40, seed=1)
    expected = [decibels(float(((s - t) ** 2).sum() / (t**2).sum())) for s, t in zip(x, y)]  # noqa: B905
    found = snr_loss(x, y, eps=1e-16, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    centred = [s - s.mean(-1, keepdim=True) for s in (x, y)]
    torch.testing.assert_close(snr_loss(x, y, zero_mean=True), snr_loss(*centred))


def test_the_gradient_of_snr_is_its_closed_form() -> None:
    x, y = signals(1, 40).requires_grad_(), signals(1, 40, seed=1)
    (gradient,) = torch.autograd.grad(snr_loss(x, y, eps=1e-2), x)
    error, energy = x.detach() - y, (y**2).sum()
    expected = 10 / math.log(10) * 2 * error / ((error**2).sum() + 1e-2 * energy)
    torch.testing.assert_close(gradient, expected)


# -- spectra --------------------------------------------------------------------------------------

SMALL = {"fft_sizes": (32, 16), "hop_sizes": (5, 4), "win_lengths": (20, 16)}


def spectrogram(signal: np.ndarray, fft: int, hop: int, win: int) -> np.ndarray:
    """The power of each frequency in each frame, by the definition of the Fourier transform."""
    padded = np.pad(signal, fft // 2, mode="reflect")
    window = np.zeros(fft)
    left = (fft - win) // 2
    window[left : left + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    starts = range(0, len(padded) - fft + 1, hop)
    frames = np.stack([padded[start : start + fft] * window for start in starts])
    frequencies = np.arange(fft // 2 + 1)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(fft), frequencies) / fft)
    return np.abs(frames @ waves) ** 2


def by_hand(x: np.ndarray, y: np.ndarray, eps: float, sizes=SMALL) -> float:
    values = []
    for resolution in zip(*sizes.values(), strict=True):
        p, q = (np.sqrt(spectrogram(s, *resolution) + eps) for s in (x, y))
        convergence = np.linalg.norm(q - p) / np.linalg.norm(q)
        values.append(convergence + np.abs(np.log(q) - np.log(p)).mean())
    return float(np.mean(values))


@pytest.mark.parametrize("eps", [1e-8, 1e-1])
def test_the_spectral_loss_is_its_formula(eps: float) -> None:
    x, y = signals(2, 3, 70), signals(2, 3, 70, seed=1)
    pairs = zip(x.reshape(-1, 70).numpy(), y.reshape(-1, 70).numpy(), strict=True)
    values = [by_hand(s, t, eps) for s, t in pairs]
    expected = torch.tensor(values, dtype=torch.float64).reshape(2, 3)
    found = multi_resolution_stft_loss(x, y, eps=eps, reduction="none", **SMALL)
    torch.testing.assert_close(found, expected)


def test_the_published_resolutions_are_the_default() -> None:
    x, y = signals(1100), signals(1100, seed=1)
    sizes = {
        "fft_sizes": (1024, 2048, 512),
        "hop_sizes": (120, 240, 50),
        "win_lengths": (600, 1200, 240),
    }
    expected = by_hand(x.numpy(), y.numpy(), 1e-8, sizes)
    assert multi_resolution_stft_loss(x, y).item() == pytest.approx(expected)


def test_a_signal_is_worth_the_same_in_any_batch() -> None:
    x, y = signals(4, 70), signals(4, 70, seed=1) * torch.tensor([[0.01], [1.0], [5.0], [100.0]])
    alone = [multi_resolution_stft_loss(s, t, **SMALL) for s, t in zip(x, y, strict=True)]
    together = multi_resolution_stft_loss(x, y, **SMALL)
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_a_signal_below_the_floor_still_has_a_gradient() -> None:
    y = signals(1, 70)
    x = (1e-6 * signals(1, 70, seed=1)).requires_grad_()
    (gradient,) = torch.autograd.grad(multi_resolution_stft_loss(x, y, **SMALL), x)
    assert gradient.isfinite().all() and gradient.norm() > 1


@pytest.mark.parametrize("level", [0.0, 1e4])
def test_equal_and_silent_signals_are_finite(level: float) -> None:
    y = level * signals(1, 70).float()
    for x in (y, torch.zeros_like(y), y + 1):
        leaf = x.clone().requires_grad_()
        value = multi_resolution_stft_loss(leaf, y, **SMALL)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert value.isfinite() and gradient.isfinite().all()
    assert multi_resolution_stft_loss(y, y, **SMALL) == 0


def test_the_gradient_of_the_spectral_loss_passes_gradcheck() -> None:
    x, y = signals(1, 40).requires_grad_(), signals(1, 40, seed=1)
    assert torch.autograd.gradcheck(lambda x: multi_resolution_stft_loss(x, y, **SMALL), x)


# -- sources in any order -------------------------------------------------------------------------


@pytest.mark.parametrize("loss_func", [si_sdr_loss, snr_loss])
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_the_best_order_is_that_of_the_assignment_problem(loss_func, sources: int) -> None:
    x, y = signals(5, sources, 30), signals(5, sources, 30, seed=1)
    expected = []
    for estimates, references in zip(x, y, strict=True):
        costs = np.array([[loss_func(s, t).item() for t in references] for s in estimates])
        expected.append(costs[linear_sum_assignment(costs)].mean())
    found = permutation_invariant_loss(x, y, loss_func=loss_func, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_only_the_pairs_of_the_best_order_have_a_gradient() -> None:
    y = signals(3, 30)
    order = [2, 0, 1]
    x = (y[order] + 0.1 * signals(3, 30, seed=1)).requires_grad_()
    (found,) = torch.autograd.grad(permutation_invariant_loss(x, y), x)
    (expected,) = torch.autograd.grad(si_sdr_loss(x, y[order]), x)
    torch.testing.assert_close(found, expected)


def test_a_mixture_that_does_not_count_may_be_nan() -> None:
    x, y = signals(3, 2, 20), signals(3, 2, 20, seed=1)
    kept = permutation_invariant_loss(x[1:], y[1:])
    x[0] = torch.nan
    x.requires_grad_()
    found = permutation_invariant_loss(x, y, mask=torch.tensor([False, True, True]))
    torch.testing.assert_close(found, kept)
    (gradient,) = torch.autograd.grad(found, x)
    assert not gradient[0].any() and gradient[1:].isfinite().all()


def test_wrong_sources_are_named() -> None:
    x = signals(2, 9, 5)
    with pytest.raises(ValueError, match="from 1 to 8 sources"):
        permutation_invariant_loss(x, x)
    with pytest.raises(ValueError, match=r"must have the shape \(\*, S, T\)"):
        permutation_invariant_loss(x[0, 0], x[0, 0])
    with pytest.raises(TypeError, match="`loss_func` must be a function, got 'snr'"):
        permutation_invariant_loss(x[:, :2], x[:, :2], loss_func="snr")

    def per_sample(input: Tensor, target: Tensor, *, reduction: str) -> Tensor:
        return (input - target).square()

    with pytest.raises(ValueError, match=r"values of shape \[2, 2, 2\], got \[2, 2, 2, 5\]"):
        permutation_invariant_loss(x[:, :2], x[:, :2], loss_func=per_sample)


# -- what they share ------------------------------------------------------------------------------

LOSSES = [
    (si_sdr_loss, {}),
    (snr_loss, {}),
    (multi_resolution_stft_loss, SMALL),
]


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_a_signal_that_does_not_count_may_be_nan(loss, options) -> None:
    x, y = signals(3, 70), signals(3, 70, seed=1)
    kept = loss(x[1:], y[1:], **options)
    x[0], y[0] = torch.nan, torch.inf
    x.requires_grad_()
    found = loss(x, y, mask=torch.tensor([False, True, True]), **options)
    torch.testing.assert_close(found, kept)
    (gradient,) = torch.autograd.grad(found, x)
    assert not gradient[0].any() and gradient[1:].isfinite().all()


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_weights_count_signals(loss, options) -> None:
    x, y = signals(2, 3, 70), signals(2, 3, 70, seed=1)
    values = loss(x, y, reduction="none", **options)
    assert values.shape == (2, 3)
    weight = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    expected = (values * weight).sum() / 12
    torch.testing.assert_close(loss(x, y, weight=weight, **options), expected)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_signals_that_do_not_fit_are_refused(loss, options) -> None:
    x = signals(2, 70)
    with pytest.raises(ValueError, match=r"same shape, got \[2, 70\] and \[1, 70\]"):
        loss(x, x[:1], **options)
    with pytest.raises(ValueError, match="signals of at least"):
        loss(x[:, :0], x[:, :0], **options)
    with pytest.raises(ValueError, match=r"must have the shape \(\*, T\)"):
        loss(x[0, 0], x[0, 0], **options)
    with pytest.raises(ValueError, match="`eps` must be a number of at least 1e-30"):
        loss(x, x, **options, eps=0.0)
    with pytest.raises(ValueError, match="`mask` must have the shape of the values"):
        loss(x, x, **options, mask=torch.ones(2, 70).bool())
    with pytest.raises(TypeError, match="floating-point"):
        loss(x.to(torch.int16), x, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fft_sizes": (32,)}, ValueError, "`hop_sizes` must hold 1 sizes, got 2"),
        ({"fft_sizes": 32}, TypeError, "`fft_sizes` must be a tuple or list of integers"),
        ({"fft_sizes": ()}, TypeError, "`fft_sizes` must be a tuple or list of integers"),
        ({"hop_sizes": (0, 4)}, ValueError, "`hop_sizes` must be an integer of at least 1, got 0"),
        ({"hop_sizes": (2.5, 4)}, TypeError, "`hop_sizes` must be an integer"),
        ({"win_lengths": (33, 16)}, ValueError, "`win_lengths` must be at most `fft_sizes`, 32"),
        ({"fft_sizes": (512, 16)}, ValueError, "signals of at least 257 samples"),
    ],
)
def test_a_wrong_resolution_is_named(options, error, message: str) -> None:
    x = signals(2, 70)
    with pytest.raises(error, match=message):
        multi_resolution_stft_loss(x, x, **{**SMALL, **options})


def test_wrong_options_of_the_ratios_are_named() -> None:
    x = signals(2, 70)
    for loss in (si_sdr_loss, snr_loss):
        with pytest.raises(TypeError, match="`zero_mean` must be True or False, got 1"):
            loss(x, x, zero_mean=1)


def test_the_modules_show_their_options() -> None:
    assert repr(SISDRLoss(zero_mean=False)) == "SISDRLoss(zero_mean=False)"
    made = MultiResolutionSTFTLoss(**SMALL)
    x = signals(2, 70)
    assert made(x, x) == 0 and "fft_sizes=(32, 16)" in repr(made)
    x, y = signals(2, 2, 30), signals(2, 2, 30, seed=1)
    assert PITLoss(loss_func=snr_loss)(x, y) == permutation_invariant_loss(x, y, loss_func=snr_loss)
