"""The losses of auraloss, but for those on mel and chroma scales, which need librosa."""

from __future__ import annotations

from typing import Any

from auraloss import freq, time

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries

ENTRIES = Entries()
add = ENTRIES.add
WINDOW = {"fft_size": 64, "hop_size": 16, "win_length": 64}


def mono(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 1, 256)), d.normal(2, 1, 256)


def stereo(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 2, 128)), d.normal(2, 2, 128)


add("ESRLoss", time.ESRLoss, mono)
add("DCLoss", time.DCLoss, mono)
add("LogCoshLoss", time.LogCoshLoss, mono)
add("SNRLoss", time.SNRLoss, mono)
add("SISDRLoss", time.SISDRLoss, mono)
add("SDSDRLoss", time.SDSDRLoss, mono)
add("STFTLoss", lambda: freq.STFTLoss(**WINDOW), mono)
add("STFTLoss, linear", lambda: freq.STFTLoss(**WINDOW, w_log_mag=0.0, w_lin_mag=1.0), mono)
add(
    "MultiResolutionSTFTLoss",
    lambda: freq.MultiResolutionSTFTLoss(
        fft_sizes=[32, 64], hop_sizes=[8, 16], win_lengths=[32, 64]
    ),
    mono,
)
add(
    "SumAndDifferenceSTFTLoss",
    lambda: freq.SumAndDifferenceSTFTLoss(fft_sizes=[32], hop_sizes=[8], win_lengths=[32]),
    stereo,
)
add(
    "RandomResolutionSTFTLoss",
    lambda: freq.RandomResolutionSTFTLoss(resolutions=2, min_fft_size=16, max_fft_size=64),
    mono,
)
