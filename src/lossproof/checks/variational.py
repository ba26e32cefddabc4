"""The divergence of a variational autoencoder, recognised by its gradients.

`KL(N(mu, exp(logvar)) || N(0, 1))` has the gradients `c mu` and `c (exp(logvar) - 1) / 2`, where
`c` is the weight of one latent dimension of one sample. Nothing else has, so `c` can be read off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lossproof.checks.batch import batch_of

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

Tensor = torch.Tensor
EXACT = 1e-6


@dataclass(frozen=True)
class Divergence:
    """A divergence from the standard normal distribution among the terms of a loss."""

    mean: int
    log_variance: int
    """The leaves of the mean and of the logarithm of the variance."""
    weight: float
    """What each latent dimension of each sample is multiplied by."""
    dimensions: int
    samples: int

    @property
    def averages_dimensions(self) -> bool:
        """Whether it is the mean over the latent dimensions, where the formula has their sum."""
        average = 1 / (self.samples * self.dimensions)
        return self.dimensions > 1 and abs(self.weight - average) <= EXACT * average


def divergence_of(case: Examination) -> Divergence | None:
    """Find the divergence among the terms of a loss."""
    found = case.twin
    if found.failed or len(case.inputs.differentiable) < 2:
        return None
    for mean in range(len(case.inputs.differentiable)):
        for other in range(len(case.inputs.differentiable)):
            if mean != other:
                weight = _weight(found, mean, other)
                if weight is not None:
                    shape = found.leaves[mean].shape
                    return Divergence(
                        mean, other, weight, int(shape[-1]), int(shape.numel() // shape[-1])
                    )
    return None


def _weight(found: Evaluation, mean: int, log_variance: int) -> float | None:
    mu, logvar = found.leaves[mean].detach(), found.leaves[log_variance].detach()
    if mu.shape != logvar.shape or mu.dim() < 2 or not float(mu.norm()):
        return None
    of_mean, of_variance = found.gradient(mean), found.gradient(log_variance)
    weight = float((of_mean * mu).sum() / mu.square().sum())
    if not weight:
        return None
    as_told = float((of_mean - weight * mu).norm()) <= EXACT * float(of_mean.norm())
    expected = 0.5 * weight * (logvar.exp() - 1)
    told = float((of_variance - expected).norm()) <= EXACT * float(expected.norm())
    return weight if as_told and told else None


def summed_beside(case: Examination, divergence: Divergence) -> str | None:
    """The name of a prediction beside the divergence whose term is summed over its features.

    Such a term gives each feature the same gradient when all features come twice; a mean halves it.
    """
    batch = batch_of(case)
    if batch is None:
        return None
    values = case.inputs.values
    for leaf, position in enumerate(case.inputs.differentiable):
        if leaf in (divergence.mean, divergence.log_variance):
            continue
        shape = values[position].shape
        if len(shape) < 2 or batch.axes[position] != 0:
            continue
        wider = [
            torch.cat((value.detach(), value.detach()), -1)
            if isinstance(value, Tensor) and value.shape == shape
            else value
            for value in values
        ]
        once = case.twin.gradient(leaf)
        twice = case.evaluate(wider, dtype=torch.float64)
        if twice.failed or not float(once.norm()):
            continue
        half = twice.gradient(leaf).narrow(-1, 0, shape[-1])
        if float((half - once).norm()) <= EXACT * float(once.norm()):
            return case.inputs.arguments[position].name
    return None
