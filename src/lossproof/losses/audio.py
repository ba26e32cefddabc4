"""Losses between signals: waveforms and their spectra.

The last axis is time; all axes before it count signals, and each signal is one item.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, fits, flag, integer, number, pair
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor
ValuesOfSignals = Callable[..., Tensor]
"""A loss with a value for each signal."""


def _signals(input: Tensor, target: Tensor, *, shortest: int = 1) -> None:
    """Two batches of signals of the same shape, of at least this many samples."""
    pair(input, target)
    axes("input", input, -1, layout="(*, T)")
    if input.shape[-1] < shortest:
        raise ValueError(
            f"`input` must hold signals of at least {shortest} samples, got {list(input.shape)}"
        )


def _counting(mask: Tensor | None, *signals: Tensor) -> tuple[Tensor, ...]:
    """The signals, silent where they do not count: NaN there must reach no value or gradient."""
    if mask is None:
        return signals
    mask = fits("mask", mask, signals[0].detach()[..., 0], kind="bool").unsqueeze(-1)
    return tuple(torch.where(mask, signal, 0.0) for signal in signals)


def _power(signals: Tensor) -> Tensor:
    return signals.square().mean(-1)


def _centred(signals: Tensor) -> Tensor:
    # Relative to one sample first: of a constant nothing is left, and no rounding error that would
    # then be taken for the signal.
    signals = signals - signals.detach()[..., :1]
    return signals - signals.mean(-1, keepdim=True)


def _of_unit_power(signals: Tensor) -> Tensor:
    return signals / _or_one(_power(signals)).sqrt().unsqueeze(-1)


def _or_one(powers: Tensor) -> Tensor:
    """The powers, and 1 for silence, which cannot be divided by."""
    return torch.where(powers == 0, 1.0, powers)


@loss(
    inputs="input float[3,2,8]; target float[3,2,8]",
    module="SISDRLoss",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("scale-invariant signal-to-distortion ratio", "si-snr", "source separation"),
    peers={
        "auraloss": "the same function; an absolute eps, which depends on the volume",
        "torchmetrics": "the same function with `zero_mean=True`; its default is False",
    },
)
def si_sdr_loss(
    input: Tensor,
    target: Tensor,
    *,
    zero_mean: bool = True,
    eps: float = 1e-8,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""SI-SDR loss: the negative scale-invariant signal-to-distortion ratio, in decibels.

    .. math::
        v = 10 \log_{10}
        \frac{\|\hat s - \alpha s\|^2 + \varepsilon \|\hat s\|^2}
        {\|\alpha s\|^2 + \varepsilon \|\hat s\|^2},
        \qquad \alpha = \frac{\hat s^\top s}{\|s\|^2}

    :math:`\alpha s` is the part of the prediction that the target explains. :math:`\varepsilon`
    is relative to the prediction, so that the loss stays independent of the volume; it limits the
    value to :math:`\pm 10 \log_{10} \varepsilon`, by default 80 dB. A silent prediction has the
    value 0 and no gradient, a silent target the largest value and no gradient.

    Args:
        input: predictions :math:`\hat s`, (\*, T), floating point.
        target: targets :math:`s`, the shape of ``input``.
        zero_mean: whether the mean of each signal is taken off first, as the paper assumes it to
            be.
        eps: the ratio of powers at which improvement stops to pay, from 1e-30 to 1.
        weight: how much each signal counts, the shape of ``input`` without the last axis, or 1
            where it is the same for all.
        mask: which signals count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of signals that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, T)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import si_sdr_loss
        >>> target = torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> noise = torch.tensor([0.1, 0.1, -0.1, -0.1])
        >>> si_sdr_loss(target + noise, target)
        tensor(-20.0000)
        >>> si_sdr_loss(5 * (target + noise), target)
        tensor(-20.0000)

    Source:
        Le Roux, Wisdom, Erdogan and Hershey (2019), SDR - half-baked or well done?
    """
    _signals(input, target)
    flag("zero_mean", zero_mean)
    number("eps", eps, minimum=1e-30, below=1)
    input, target = _counting(mask, input, target)
    if zero_mean:
        input, target = _centred(input), _centred(target)
    input, target = _of_unit_power(input), _of_unit_power(target)  # the volume does not count
    correlation = (input * target).mean(-1, keepdim=True)
    noise, signal = _power(input - correlation * target), correlation.squeeze(-1).square()
    values = 10 * ((noise + eps).log10() - (signal + eps).log10())
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


SISDRLoss = as_module(si_sdr_loss, name="SISDRLoss")


@loss(
    inputs="input float[3,2,3]; target float[3,2,3]",
    module="SNRLoss",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("signal-to-noise ratio", "source separation"),
    peers={
        "auraloss": "the same function with `zero_mean=False`; its default takes the means off",
        "torchmetrics": "the same function",
    },
)
def snr_loss(
    input: Tensor,
    target: Tensor,
    *,
    zero_mean: bool = False,
    eps: float = 1e-8,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""SNR loss: the negative signal-to-noise ratio, in decibels.

    .. math::
        v = 10 \log_{10} \left( \frac{\|s - \hat s\|^2}{\|s\|^2} + \varepsilon \right)

    :math:`\varepsilon` limits the ratio, by default to 80 dB, so that the signals that are right
    already do not take all of the gradient. A silent target has no such ratio: there the power of
    the error is taken relative to 1.

    Args:
        input: predictions :math:`\hat s`, (\*, T), floating point.
        target: targets :math:`s`, the shape of ``input``.
        zero_mean: whether the mean of each signal is taken off first.
        eps: the ratio of powers at which improvement stops to pay, from 1e-30 to 1.
        weight: how much each signal counts, the shape of ``input`` without the last axis, or 1
            where it is the same for all.
        mask: which signals count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of signals that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, T)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import snr_loss
        >>> target = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
        >>> snr_loss(target + 0.1, target, reduction="none")
        tensor([-20.0000, -20.0000])

    Source:
        Wisdom, Tzinis, Erdogan, Weiss, Wilson and Hershey (2020), Unsupervised sound separation
        using mixture invariant training.
    """
    _signals(input, target)
    flag("zero_mean", zero_mean)
    number("eps", eps, minimum=1e-30, below=1)
    input, target = _counting(mask, input, target)
    if zero_mean:
        input, target = _centred(input), _centred(target)
    values = 10 * (_power(input - target) / _or_one(_power(target)) + eps).log10()
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


SNRLoss = as_module(snr_loss, name="SNRLoss")


@loss(
    inputs="input float[3,2,26]; target float[3,2,26]",
    options={"fft_sizes": (16, 8), "hop_sizes": (4, 3), "win_lengths": (12, 8)},
    module="MultiResolutionSTFTLoss",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("mrstft", "multi-scale spectrogram", "vocoder"),
    peers={
        "auraloss": "the spectral convergence of the whole batch at once, so that the loss depends "
        "on the size of the batch, and no gradient below its floor",
    },
)
def multi_resolution_stft_loss(
    input: Tensor,
    target: Tensor,
    *,
    fft_sizes: Sequence[int] = (1024, 2048, 512),
    hop_sizes: Sequence[int] = (120, 240, 50),
    win_lengths: Sequence[int] = (600, 1200, 240),
    eps: float = 1e-8,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Multi-resolution STFT loss: the difference between spectrograms of several resolutions.

    .. math::
        v = \frac1M \sum_{m=1}^{M} \frac{\| S_m - \hat S_m \|_F}{\| S_m \|_F}
        + \operatorname{mean} \left| \log S_m - \log \hat S_m \right|, \qquad
        S = \sqrt{|\operatorname{STFT}(s)|^2 + \varepsilon}

    The first term, the spectral convergence, is that of each signal by itself. The floor
    :math:`\varepsilon` is smooth, so that a signal below it still has a gradient. The phase does
    not count: a signal and its negative are alike.

    Args:
        input: predictions :math:`\hat s`, (\*, T), floating point.
        target: targets :math:`s`, the shape of ``input``.
        fft_sizes: points of the Fourier transform, for each resolution.
        hop_sizes: samples from one frame to the next.
        win_lengths: samples of the Hann window, at most the points of the transform.
        eps: the power below which a magnitude counts as silence, at least 1e-30.
        weight: how much each signal counts, the shape of ``input`` without the last axis, or 1
            where it is the same for all.
        mask: which signals count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of signals that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, T)`, T above half the largest ``fft_sizes``, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point, or a size is no integer.
        ValueError: the shapes differ, a signal is too short, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import multi_resolution_stft_loss
        >>> target = torch.sin(torch.arange(4096.0) ** 2 / 10)
        >>> multi_resolution_stft_loss(2 * target, target)
        tensor(1.6931)
        >>> multi_resolution_stft_loss(-target, target)
        tensor(0.)

    Source:
        Yamamoto, Song and Kim (2020), Parallel WaveGAN: a fast waveform generation model based on
        generative adversarial networks with multi-resolution spectrogram.
    """
    resolutions = _resolutions(fft_sizes, hop_sizes, win_lengths)
    number("eps", eps, minimum=1e-30)
    _signals(input, target, shortest=max(fft for fft, _, _ in resolutions) // 2 + 1)
    input, target = _counting(mask, input, target)
    if not input.numel():  # there is no Fourier transform of a batch without signals
        return reduce((input - target).sum(-1), weight, reduction, mask=mask, normalizer=normalizer)
    values = torch.stack([_stft_values(input, target, *r, eps) for r in resolutions]).mean(0)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _resolutions(
    fft_sizes: Sequence[int], hop_sizes: Sequence[int], win_lengths: Sequence[int]
) -> list[tuple[int, int, int]]:
    names = ("fft_sizes", "hop_sizes", "win_lengths")
    for name, sizes in zip(names, (fft_sizes, hop_sizes, win_lengths), strict=True):
        if not isinstance(sizes, tuple | list) or not sizes:
            raise TypeError(f"`{name}` must be a tuple or list of integers, got {sizes!r}")
        if len(sizes) != len(fft_sizes):
            raise ValueError(f"`{name}` must hold {len(fft_sizes)} sizes, got {len(sizes)}")
        for size in sizes:
            integer(name, size, minimum=1)
    for fft, win in zip(fft_sizes, win_lengths, strict=True):
        if win > fft:
            raise ValueError(f"`win_lengths` must be at most `fft_sizes`, {fft}, got {win}")
    return list(zip(fft_sizes, hop_sizes, win_lengths, strict=True))


def _stft_values(input: Tensor, target: Tensor, fft: int, hop: int, win: int, eps: float) -> Tensor:
    """Spectral convergence and log magnitude of each signal at one resolution."""
    powers, wanted = (_spectral_power(s, fft, hop, win) + eps for s in (input, target))
    error = _norm(powers.sqrt() - wanted.sqrt()) / wanted.sum((-2, -1)).sqrt()
    return error + (powers.log() - wanted.log()).abs().mean((-2, -1)) / 2


def _spectral_power(signals: Tensor, fft: int, hop: int, win: int) -> Tensor:
    """The squared magnitudes of the short-time Fourier transform, frequencies by frames."""
    window = torch.hann_window(win, dtype=signals.dtype, device=signals.device)
    rows = signals.reshape(-1, signals.shape[-1])
    spectrum = torch.stft(rows, fft, hop, win, window, return_complex=True)
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    power = real.square() + imaginary.square()
    return power.reshape(*signals.shape[:-1], *power.shape[1:])


def _norm(matrices: Tensor) -> Tensor:
    """The Frobenius norm; its subgradient at 0 is 0."""
    squares = matrices.square().sum((-2, -1))
    zero = squares == 0
    return torch.where(zero, squares, torch.where(zero, 1.0, squares).sqrt())


MultiResolutionSTFTLoss = as_module(multi_resolution_stft_loss, name="MultiResolutionSTFTLoss")


@loss(
    inputs="input float[4,2,6]; target float[4,2,6]",
    module="PITLoss",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("permutation invariant training", "upit", "source separation"),
    peers={
        "torchmetrics": "`permutation_invariant_training` returns the best value and its order",
    },
)
def permutation_invariant_loss(
    input: Tensor,
    target: Tensor,
    *,
    loss_func: ValuesOfSignals = si_sdr_loss,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Permutation-invariant loss: the sources of a mixture may come in any order.

    .. math::
        v = \min_{\pi} \frac1S \sum_{i=1}^{S} \ell(\hat s_i, s_{\pi(i)})

    The best order is found for each mixture by itself; only its pairs have a gradient. All
    :math:`S!` orders are compared, which is meant for few sources.

    Args:
        input: predicted sources :math:`\hat s_i` of each mixture, (\*, S, T), floating point.
        target: the sources :math:`s_i`, the shape of ``input``.
        loss_func: the loss :math:`\ell` of one source; called with two tensors (\*, T) and
            ``reduction="none"``, it must give values (\*).
        weight: how much each mixture counts, the shape of ``input`` without the last two axes, or 1
            where it is the same for all.
        mask: which mixtures count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of mixtures that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, S, T)`, S from 1 to 8, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point, or ``loss_func`` cannot be called.
        ValueError: the shapes differ, there are more than 8 sources, or ``loss_func`` gives values
            of another shape.

    Example:
        >>> import torch
        >>> from lossproof.losses import permutation_invariant_loss, snr_loss
        >>> target = torch.tensor([[1.0, -1.0, 1.0], [2.0, 0.0, -2.0]])
        >>> permutation_invariant_loss(1.1 * target.flip(0), target, loss_func=snr_loss)
        tensor(-20.0000)

    Source:
        Kolbaek, Yu, Tan and Jensen (2017), Multitalker speech separation with utterance-level
        permutation invariant training of deep recurrent neural networks.
    """
    _sources(input, target)
    if not callable(loss_func):
        raise TypeError(f"`loss_func` must be a function, got {loss_func!r}")
    if mask is not None:
        mask = fits("mask", mask, input.detach()[..., 0, 0], kind="bool")
        counts = mask.unsqueeze(-1).unsqueeze(-1)
        input, target = (torch.where(counts, sources, 0.0) for sources in (input, target))
    sources, length = input.shape[-2:]
    shape = (*input.shape[:-2], sources, sources)
    costs = loss_func(
        input.unsqueeze(-2).expand(*shape, length),
        target.unsqueeze(-3).expand(*shape, length),
        reduction="none",
    )
    if costs.shape != shape:
        raise ValueError(
            f"`loss_func` must give values of shape {list(shape)}, got {list(costs.shape)}"
        )
    orders = torch.tensor(list(itertools.permutations(range(sources))), device=input.device)
    pairs = costs[..., torch.arange(sources, device=input.device), orders]
    values = pairs.mean(-1).amin(-1)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _sources(input: Tensor, target: Tensor) -> None:
    """The sources of each mixture, few enough to try all orders."""
    pair(input, target)
    axes("input", input, -2, layout="(*, S, T)")
    if not 1 <= input.shape[-2] <= 8 or input.shape[-1] < 1:
        raise ValueError(
            f"`input` must hold from 1 to 8 sources of at least 1 sample, got {list(input.shape)}"
        )


PITLoss = as_module(permutation_invariant_loss, name="PITLoss")
