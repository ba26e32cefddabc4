"""The divergence of a Gaussian latent from its prior: smallest, and 0, at the prior.

A loss of a mean and a scale alone, called `mu` and `logvar` or the like, is the Kullback-Leibler
divergence from a Gaussian. From a standard normal, mean 0 and scale 1 are its minimum; from another
prior the minimum lies elsewhere, but it is 0 all the same. What has its minimum elsewhere *and* is
not 0 there is the divergence from no Gaussian at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lossproof.checks.conventions import Call, Fault

Tensor = torch.Tensor

_MEAN = re.compile(r"^(z_?)?(mu|mus|mean|means|loc|q_mu|mu_q|q_mean|m)$", re.I)
_LOG_VARIANCE = re.compile(r"^(\w+_)?(log_?var|log_?variance|logvar)(_\w+)?$", re.I)
_LOG_SCALE = re.compile(r"^(\w+_)?(log_?sigma|log_?std|log_?scale|logstd|logsd)(_\w+)?$", re.I)
_SCALE = re.compile(r"^(sigma|std|scale|stddev)$", re.I)
_VARIANCE = re.compile(r"^(var|variance|sigma_?sq\w*|sigma2)$", re.I)
STEPS = tuple(step / 5 for step in range(-15, 16))
"""Logarithms of the scales tried: 0 is one of them."""
FAR = 30.0
"""A mean, or the logarithm of a scale, beyond what any capacity allows."""
SLACK = 1e-4


@dataclass(frozen=True)
class Latent:
    """Where a call takes the mean and the scale of a latent."""

    mean: int
    scale: int
    logarithmic: float
    """How the argument is made from log sigma: it is this many times log sigma, or if negative,
    sigma to this power."""
    alone: bool
    """Whether the loss takes nothing else; else the rest, such as a reconstruction, is added."""

    def argument(self, log_sigma: float, like: Tensor) -> Tensor:
        """What to give for the scale."""
        filled = torch.full(like.shape, log_sigma, dtype=torch.float64)
        if self.logarithmic > 0:
            return filled * self.logarithmic
        return (filled * -self.logarithmic).exp()


def latent_of(call: Call) -> Latent | None:
    """The mean and the scale of a latent, if the loss takes one of each."""
    arguments = call.case.inputs.arguments
    tensors = [i for i, a in enumerate(arguments) if isinstance(a.value, Tensor)]
    means = [i for i in tensors if _MEAN.match(arguments[i].name)]
    kinds = ((_LOG_VARIANCE, 2.0), (_LOG_SCALE, 1.0), (_SCALE, -1.0), (_VARIANCE, -2.0))
    scales = [(i, power) for i in tensors for name, power in kinds if name.match(arguments[i].name)]
    if len(means) != 1 or len(scales) != 1:
        return None
    (mean,), ((scale, power),) = means, scales
    if arguments[mean].value.shape != arguments[scale].value.shape:
        return None
    return Latent(mean, scale, power, alone=len(tensors) == 2)


def _has_a_prior_of_its_own(call: Call) -> bool:
    """Whether an option says from which prior: then constants may be left out, too."""
    subject = call.case.subject
    options = () if subject.signature is None else tuple(subject.signature.parameters)
    return any("prior" in name for name in (*options, *getattr(subject.call, "__dict__", ())))


def prior_is_no_minimum(call: Call) -> Iterator[Fault]:
    """Losses of a mean and a scale, with a reconstruction beside them or without."""
    latent = latent_of(call)
    if latent is None or _has_a_prior_of_its_own(call):
        return
    at_prior = _value(call, latent, 0.0, 0.0)
    away = _at_means(call, latent)
    if at_prior is None or away is None or not _is_even(away, at_prior):
        return
    if not call.case.affordable(len(STEPS)):
        return
    curve = [(step, _value(call, latent, 0.0, step)) for step in STEPS]
    known = [(log_sigma, value) for log_sigma, value in curve if value is not None]
    if len(known) < len(STEPS):
        return
    lowest = min(known, key=lambda point: point[1])
    scale = max(abs(value) for _, value in known)
    numbers = {"at_prior": at_prior, "lowest": lowest[1], "log_sigma_of_lowest": lowest[0]}
    at_minimum = at_prior <= lowest[1] + SLACK * scale  # free bits have a flat minimum
    if all(value < at_prior - SLACK * scale for value in away):
        yield _fault(call, "falls as the mean leaves 0", "mean-rewarded", numbers)
    elif not at_minimum and _falls_on(call, latent, lowest, known):
        end = "0" if lowest[0] < 0 else "infinity"
        yield _fault(call, f"falls without end as sigma goes to {end}", "no-minimum", numbers)
    elif latent.alone and not at_minimum and not _is_peak(known) and abs(lowest[1]) > SLACK * scale:
        sigma = float(torch.tensor(lowest[0]).exp())
        yield _fault(
            call,
            f"is smallest at sigma = {sigma:.3g}, where it is {lowest[1]:.4g}: a divergence is 0 "
            "where it is smallest",
            "no-divergence",
            numbers,
        )


def _is_peak(known: list[tuple[float, float]]) -> bool:
    """Whether the prior is highest among its neighbours, as under a capacity."""
    middle = len(known) // 2
    below, here, above = (known[middle + step][1] for step in (-1, 0, 1))
    return below < here > above


def _falls_on(
    call: Call,
    latent: Latent,
    lowest: tuple[float, float],
    known: list[tuple[float, float]],
) -> bool:
    """Whether the lowest value lies at an end of the scales tried, and is lower still beyond.

    A capacity, `abs(kl - c)`, turns somewhere.
    """
    if lowest[0] not in (known[0][0], known[-1][0]):
        return False
    beyond = _value(call, latent, 0.0, FAR if lowest[0] > 0 else -FAR)
    return beyond is not None and beyond < lowest[1]


def _at_means(call: Call, latent: Latent) -> list[float] | None:
    values = [_value(call, latent, mean, 0.0) for mean in (-1.0, 1.0, 3.0, FAR)]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _is_even(away: list[float], at_prior: float) -> bool:
    """Whether -1 and 1 are as far from the prior, and not the prior itself.

    An entropy asks for no mean, and a utility of mean and risk tells gains from losses.
    """
    scale = max(map(abs, (*away, at_prior)))
    same = abs(away[0] - away[1]) <= SLACK * scale
    return same and abs(away[0] - at_prior) > SLACK * scale


def _value(call: Call, latent: Latent, mean: float, log_sigma: float) -> float | None:
    values = list(call.case.inputs.values)
    like = values[latent.mean]
    values[latent.mean] = torch.full(like.shape, mean, dtype=torch.float64)
    values[latent.scale] = latent.argument(log_sigma, like)
    found = call.case.evaluate(values, dtype=torch.float64, backward=False)
    if found.error is not None or found.value is None:
        return None
    value: float = found.scalar / max(like.numel(), 1)
    return value


def _fault(call: Call, what: str, cause: str, numbers: dict[str, float]) -> Fault:
    latent = latent_of(call)
    assert latent is not None
    arguments = call.case.inputs.arguments
    mu, scale = arguments[latent.mean].name, arguments[latent.scale].name
    return Fault(
        f"the divergence of `{mu}` and `{scale}` from a standard normal {what}",
        call.case.subject.location,
        cause,
        "0.5 * (mu ** 2 + sigma ** 2 - 1) - log(sigma), summed over the latent's axes",
        dict(numbers),
        (
            f"per number of the latent, at mean 0: {numbers['at_prior']:.4g} for sigma 1, "
            f"{numbers['lowest']:.4g} for sigma = exp({numbers['log_sigma_of_lowest']:g})",
        ),
    )
