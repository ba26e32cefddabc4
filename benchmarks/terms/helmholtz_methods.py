"""How a step of the Helmholtz problem is taken: plainly, and by each of the balancers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.terms.helmholtz_problem import Network, terms

Step = Callable[[dict[str, torch.Tensor]], dict[str, float]]
"""Fills ``.grad`` from the residuals, and tells the weights of the terms."""


def plain(network: Network) -> Step:
    """The plain sum."""

    def step(residuals: dict[str, torch.Tensor]) -> dict[str, float]:
        sum(terms(residuals).values()).backward()
        return dict.fromkeys(residuals, 1.0)

    return step


def as_vectors(residuals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The residuals as vectors whose mean squares are the terms."""
    return {"residual": residuals["residual"], "boundary": 2.0 * residuals["boundary"].flatten()}


def balanced(
    name: str, given: Callable[..., dict[str, torch.Tensor]] = terms, **options: Any
) -> Callable[[Network], Step]:
    """A balancer over all parameters, and what it is given."""

    def prepare(network: Network) -> Step:
        import lossproof.terms

        balancer = getattr(lossproof.terms, name)(**options)

        def step(residuals: dict[str, torch.Tensor]) -> dict[str, float]:
            weights = balancer.backward(given(residuals), network).weights
            return dict(zip(residuals, weights.tolist(), strict=True))

        return step

    return prepare


METHODS: dict[str, Callable[[Network], Step]] = {
    "plain": plain,
    "annealed": balanced("LearningRateAnnealing", reference="residual", every=10),
    "annealed (norm)": balanced(
        "LearningRateAnnealing", reference="residual", ratio="norm", every=10
    ),
    "annealed (mean / mean)": balanced(
        "LearningRateAnnealing", reference="residual", ratio="mean_mean", every=10
    ),
    "InverseDirichlet": balanced("InverseDirichlet", reference="residual", every=10),
    "SelfAdaptiveNorms": balanced("SelfAdaptiveNorms", every=10),
    "GradNorm": balanced("GradNorm"),
    "DBMTL": balanced("DBMTL", beta=0.0),
    "IMTLG": balanced("IMTLG"),
    "ConFIG": balanced("ConFIG"),
    "UPGrad": balanced("UPGrad"),
    "NashMTL": balanced("NashMTL"),
    "AlignedMTL": balanced("AlignedMTL"),
    "FairGrad": balanced("FairGrad"),
    "NTKTrace": balanced("NTKTrace", as_vectors, probes=1, momentum=0.9, every=10),
    "ReLoBRaLo": balanced("ReLoBRaLo"),
}
"""The weights of ratios are computed in every tenth step, as in the paper; others in every step."""
