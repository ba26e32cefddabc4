"""Likelihoods and scores of other libraries: counts, distributions, ensembles."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import distributions
from torch.nn import functional

from benchmarks.catalogue.peer import JOINED_HERE, MEAN_HERE, Peer
from benchmarks.catalogue.peers.regression import of_torchmetrics
from lossproof.losses.counts import negative_binomial_nll_loss, poisson_nll_loss, tweedie_loss
from lossproof.losses.probabilistic import (
    gaussian_nll_loss,
    laplace_nll_loss,
    mixture_density_loss,
    student_t_nll_loss,
)
from lossproof.losses.scoring import crps_ensemble_loss

Tensor = torch.Tensor

SCALED = "input float[64,5]; target float[64,5]; scale positive[64,5]"
# Distributions are made to broadcast.
DISTRIBUTIONS = (*JOINED_HERE, *MEAN_HERE)
COUNTS = "input float[64,5]; target count[64,5]"


def tweedie_deviance(input: Tensor, target: Tensor) -> Tensor:
    """Twice the excess of the Tweedie loss over that of the best mean."""
    mean = partial(tweedie_loss, log_input=False, reduction="none")
    # The best mean is the target; at a target of 0 its loss is 0.
    best = torch.where(target > 0, mean(target.clamp(min=1e-30), target), 0.0)
    return 2 * (mean(input, target) - best).mean()


def nll(distribution: Any, target: Tensor) -> Tensor:
    value: Tensor = -distribution.log_prob(target).mean()
    return value


def torch_negative_binomial(input: Tensor, target: Tensor, dispersion: Tensor) -> Tensor:
    fitted = distributions.NegativeBinomial(1 / dispersion, logits=input + dispersion.log())
    return nll(fitted, target)


def torch_laplace(input: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    return nll(distributions.Laplace(input, scale), target)


def torch_student_t(input: Tensor, target: Tensor, scale: Tensor, df: Tensor) -> Tensor:
    return nll(distributions.StudentT(df, input, scale), target)


def torch_mixture(input: Tensor, target: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    weights = distributions.Categorical(logits=logits)
    mixture = distributions.MixtureSameFamily(weights, distributions.Normal(input, scale))
    return nll(mixture, target)


PEERS = (
    Peer(
        "poisson_nll_loss",
        "torch",
        "poisson_nll_loss()",
        poisson_nll_loss,
        functional.poisson_nll_loss,
        COUNTS,
    ),
    Peer(
        "poisson_nll_loss",
        "torch",
        "poisson_nll_loss(log_input=False)",
        partial(poisson_nll_loss, log_input=False),
        partial(functional.poisson_nll_loss, log_input=False),
        "input positive[64,5]; target count[64,5]",
    ),
    Peer(
        "poisson_nll_loss",
        "torch",
        "poisson_nll_loss(full=True)",
        partial(poisson_nll_loss, full=True),
        partial(functional.poisson_nll_loss, full=True),
        COUNTS,
        difference="torch adds Stirling's approximation of log y!, and 0 for y of 1",
    ),
    Peer(
        "tweedie_loss",
        "torchmetrics",
        "tweedie_deviance_score(power=1.5)",
        tweedie_deviance,
        of_torchmetrics("tweedie_deviance_score", power=1.5),
        "input positive[64,5]; target count[64,5]",
    ),
    Peer(
        "negative_binomial_nll_loss",
        "torch",
        "distributions.NegativeBinomial",
        partial(negative_binomial_nll_loss, full=True),
        torch_negative_binomial,
        "input float[64,5]; target count[64,5]; dispersion positive[64,5]",
        not_asked=DISTRIBUTIONS,
    ),
    Peer(
        "gaussian_nll_loss",
        "torch",
        "gaussian_nll_loss()",
        gaussian_nll_loss,
        functional.gaussian_nll_loss,
        "input float[64,5]; target float[64,5]; var positive[64,5]",
    ),
    Peer(
        "gaussian_nll_loss",
        "torch",
        "gaussian_nll_loss(full=True)",
        partial(gaussian_nll_loss, full=True),
        partial(functional.gaussian_nll_loss, full=True),
        "input float[64,5]; target float[64,5]; var positive[64,5]",
    ),
    Peer(
        "laplace_nll_loss",
        "torch",
        "distributions.Laplace",
        laplace_nll_loss,
        torch_laplace,
        SCALED,
        not_asked=DISTRIBUTIONS,
    ),
    Peer(
        "student_t_nll_loss",
        "torch",
        "distributions.StudentT",
        student_t_nll_loss,
        torch_student_t,
        f"{SCALED}; df positive[64,5]",
        not_asked=DISTRIBUTIONS,
    ),
    Peer(
        "mixture_density_loss",
        "torch",
        "distributions.MixtureSameFamily",
        mixture_density_loss,
        torch_mixture,
        "input float[64,5]; target float[64]; scale positive[64,5]; logits float[64,5]",
        not_asked=DISTRIBUTIONS,
    ),
    Peer(
        "crps_ensemble_loss",
        "torchmetrics",
        "continuous_ranked_probability_score()",
        crps_ensemble_loss,
        of_torchmetrics("continuous_ranked_probability_score"),
        "input float[64,9]; target float[64]",
    ),
)
