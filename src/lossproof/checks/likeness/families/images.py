"""Losses of images: signal to noise, total variation, similarity of audio signals."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import pair, single
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms

Tensor = torch.Tensor


def _psnr(how: str) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        error = (input - target) ** 2
        mean = error.flatten(1).mean(1) if how == "sample" and input.dim() > 1 else error.mean()
        return {"PSNR": Term(torch.log10(mean))}

    return terms


def _total_variation(how: str) -> Definition:
    def terms(input: Tensor) -> Terms:
        if input.dim() < 2:
            return {}
        rows, columns = input.diff(dim=-2), input.diff(dim=-1)
        if how == "root":
            inner = rows[..., :, :-1] ** 2 + columns[..., :-1, :] ** 2
            return {"sqrt(dx^2 + dy^2)": Term(inner.sqrt())}
        if how == "signed":
            return {"signed": Term(rows.sum() + columns.sum())}
        power = 2 if how == "squared" else 1
        return {
            "|dy|": Term(rows.abs() ** power, None),
            "|dx|": Term(columns.abs() ** power, None),
        }

    return terms


def _si_sdr(centred: bool) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        x, y = input, target
        if centred:
            x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
        signal = (x * y).sum(-1, keepdim=True) / (y * y).sum(-1, keepdim=True) * y
        noise = x - signal
        ratio = (signal**2).sum(-1) / (noise**2).sum(-1)
        return {"SI-SDR": Term(torch.log10(ratio), -1.0)}

    return terms


def _si_sdr_projected_wrongly(input: Tensor, target: Tensor) -> Terms:
    signal = (input * target).sum(-1, keepdim=True) / (input * input).sum(-1, keepdim=True) * target
    noise = input - signal
    return {"SI-SDR": Term(torch.log10((signal**2).sum(-1) / (noise**2).sum(-1)), -1.0)}


LOSSES = (
    KnownLoss(
        "psnr", "the negative peak signal-to-noise ratio", "its definition", r"psnr", pair,
        (Reading(_psnr("batch")), Reading(_psnr("sample"))),
        unlike=r"score|metric",
    ),
    KnownLoss(
        "total-variation", "the total variation", "Rudin, Osher and Fatemi, 1992",
        r"total var|\btv\b|tvloss|tv loss", single,
        (
            Reading(_total_variation("absolute")),
            Reading(_total_variation("squared")),
            Reading(_total_variation("root")),
            Reading(_total_variation("signed"), "sums signed differences, which cancel to what is "
                    "at the border", "x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()"),
        ),
    ),
    KnownLoss(
        "si-sdr", "the negative SI-SDR", "Le Roux et al., SDR - Half-baked or Well Done?, 2019",
        r"si ?sdr|si ?snr|sisdr|sisnr", pair,
        (
            Reading(_si_sdr(True)),
            Reading(_si_sdr(False)),
            Reading(_si_sdr_projected_wrongly, "divides by the energy of the estimate where the "
                    "target's belongs", "(estimate * target).sum() / (target**2).sum() * target"),
        ),
        unlike=r"pit|metric|score",
    ),
)  # fmt: skip
