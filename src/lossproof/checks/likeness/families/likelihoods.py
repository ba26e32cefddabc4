"""Negative log-likelihoods of numbers: counts, and normal and Laplace noise with its spread."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import pair, predicted_spread
from lossproof.checks.likeness.known import KnownLoss, Reading, Term, Terms, Usual

Tensor = torch.Tensor


# ---------------------------------------------------------------------------- counts
def poisson_log_rate(input: Tensor, target: Tensor) -> Terms:
    return {"exp(input)": Term(torch.exp(input)), "target input": Term(target * input, -1.0)}


def poisson_rate(input: Tensor, target: Tensor, *, eps: Usual = (1e-8, 0.0, 1e-6, 1e-7)) -> Terms:
    log = torch.log(input + float(eps))
    return {"input": Term(input), "target log input": Term(target * log, -1.0)}


def tweedie(input: Tensor, target: Tensor, *, power: Usual = (1.5,)) -> Terms:
    p = float(power)
    return {
        "target input^(1-p) / (1-p)": Term(target * input ** (1 - p) / (1 - p), -1.0),
        "input^(2-p) / (2-p)": Term(input ** (2 - p) / (2 - p)),
    }


# ---------------------------------------------------------------------------- likelihoods
def _gaussian(input: Tensor, target: Tensor, log_variance: Tensor) -> Terms:
    return {
        "(input - target)^2 / variance": Term((input - target) ** 2 / log_variance.exp()),
        "log variance": Term(log_variance),
    }


def gaussian_log_variance(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return _gaussian(input, target, spread)


def gaussian_log_sigma(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return _gaussian(input, target, 2 * spread)


def gaussian_variance(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return _gaussian(input, target, torch.log(spread))


def gaussian_sigma(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return _gaussian(input, target, 2 * torch.log(spread))


def gaussian_over_sigma(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return {
        "(input - target)^2 / sigma": Term((input - target) ** 2 / spread),
        "log sigma": Term(torch.log(spread), 2.0),
    }


def gaussian_over_log_variance(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return {
        "(input - target)^2 / log variance": Term((input - target) ** 2 / spread),
        "log variance": Term(spread),
    }


def laplace_log_scale(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return {
        "|input - target| / b": Term((input - target).abs() / spread.exp()),
        "log b": Term(spread),
    }


def laplace_scale(input: Tensor, target: Tensor, spread: Tensor) -> Terms:
    return {
        "|input - target| / b": Term((input - target).abs() / spread),
        "log b": Term(torch.log(spread)),
    }


def beta_gaussian(input: Tensor, target: Tensor, spread: Tensor, *, beta: Usual = (0.5,)) -> Terms:
    each = (input - target) ** 2 / spread + torch.log(spread)
    return {"nll variance^beta": Term(each * spread ** float(beta))}


LOSSES = (
    KnownLoss(
        "poisson-nll", "the Poisson negative log-likelihood", "torch.nn.PoissonNLLLoss",
        r"poisson", pair, (Reading(poisson_log_rate), Reading(poisson_rate)), unlike=r"zero|zip",
        everyday=True, mend="return (torch.exp(log_rate) - target * log_rate).mean()",
    ),
    KnownLoss(
        "tweedie", "the Tweedie deviance", "Tweedie, 1984; Jorgensen, 1987", r"tweedie", pair,
        (Reading(tweedie),),
    ),
    KnownLoss(
        "gaussian-nll", "the Gaussian negative log-likelihood", "torch.nn.GaussianNLLLoss",
        r"gaussian nll|gaussian neg|nll gauss|normal nll|gauss nll|hetero|gaussian log|"
        r"aleatoric|gaussian likelihood|nllloss gauss|gaussiannll",
        predicted_spread,
        (
            Reading(gaussian_variance),
            Reading(gaussian_log_variance),
            Reading(gaussian_sigma),
            Reading(gaussian_log_sigma),
            Reading(gaussian_over_sigma, "divides the squared error by sigma instead of sigma^2",
                    "0.5 * ((input - target) / sigma) ** 2 + torch.log(sigma)"),
            Reading(gaussian_over_log_variance, "divides by the logarithm of the variance",
                    "0.5 * ((input - target) ** 2 * torch.exp(-log_var) + log_var)"),
        ),
        unlike=r"beta|mixture|mdn|laplace",
        named={"spread": r"log_?var|logv|sigma|std|^var"}, everyday=True,
        mend="0.5 * (torch.log(var) + (input - target) ** 2 / var)",
    ),
    KnownLoss(
        "beta-nll", "the beta-NLL",
        "Seitzer et al., On the Pitfalls of Heteroscedastic Uncertainty Estimation, 2022",
        r"beta nll|beta gauss", predicted_spread, (Reading(beta_gaussian),),
    ),
    KnownLoss(
        "laplace-nll", "the Laplace negative log-likelihood", "Laplace, 1774", r"laplac",
        predicted_spread, (Reading(laplace_scale), Reading(laplace_log_scale)),
        unlike=r"laplacian|pyramid|regular|mixture",
        mend="torch.log(2 * b) + (input - target).abs() / b",
    ),
)  # fmt: skip
