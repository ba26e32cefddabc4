"""How a backward uses ``grad_output``.

The right gradient is a linear function of ``grad_output``, whatever else it is. That can be seen
without knowing the truth: three times the ``grad_output`` must give three times the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lossproof.checks.causes.cause import Kind
from lossproof.checks.causes.study import Study
from lossproof.checks.witness import CustomFunction, relative_error

Tensor = torch.Tensor
Upstream = dict[int, Tensor]

LINEAR = 1e-6
"""Relative; rounding must not look like a fault."""
LINEAR_NARROW = 2e-2
"""The same for a backward that computes in float32 or narrower."""


def usage(
    function: CustomFunction, args: Sequence[object], upstream: Upstream
) -> list[Kind | None]:
    """For each argument, what is wrong with the use of ``grad_output``; ``None`` for nothing.

    That the mean of ``grad_output`` is used where each element's own is needed cannot be seen
    here: it is linear (see :func:`reduced`).
    """

    def claims(scaled: Upstream) -> Sequence[Tensor]:
        return function.gradient(args, scaled)

    near = _Near(LINEAR_NARROW if function.apply(args, upstream)[0].narrow else LINEAR)
    other = {i: _signed(weight) for i, weight in upstream.items()}
    ours, theirs = claims(upstream), claims(other)
    both = claims({i: weight + other[i] for i, weight in upstream.items()})
    triple = claims(_scaled(upstream, 3.0))
    nothing = claims(_scaled(upstream, 0.0))
    return [
        _kind(near, ours[k], theirs[k], both[k], triple[k], nothing[k]) for k in range(len(ours))
    ]


@dataclass(frozen=True)
class _Near:
    """Whether two gradients are the same but for rounding."""

    tolerance: float = LINEAR

    def __call__(self, found: Tensor, expected: Tensor) -> bool:
        return relative_error(found, expected) <= self.tolerance


def _kind(
    near: _Near, ours: Tensor, theirs: Tensor, both: Tensor, triple: Tensor, nothing: Tensor
) -> Kind | None:
    if not all(bool(torch.isfinite(t).all()) for t in (ours, theirs, both, triple)):
        return None
    if near(triple, 3 * ours) and near(both, ours + theirs):
        return None
    if near(triple, ours) and near(theirs, ours):
        return Kind.GRAD_OUTPUT_IGNORED
    if near(triple, 9 * ours):
        return Kind.GRAD_OUTPUT_TWICE
    if near(triple, ours / 3):
        return Kind.GRAD_OUTPUT_INVERTED
    if bool(torch.isfinite(nothing).all()) and near(both - nothing, ours + theirs - 2 * nothing):
        return Kind.GRAD_OUTPUT_PARTLY
    return Kind.GRAD_OUTPUT_NONLINEAR


def _scaled(upstream: Upstream, factor: float) -> Upstream:
    return {i: weight * factor for i, weight in upstream.items()}


def _signed(weight: Tensor) -> Tensor:
    """Another gradient to send backward: reversed in order, half of it negative."""
    flat = weight.flatten().flip(0).clone()
    flat[::2] *= -1.7
    return flat.view_as(weight)


def _ones(upstream: Upstream) -> Upstream:
    return {i: torch.ones_like(weight) for i, weight in upstream.items()}


def _averaged(upstream: Upstream) -> Upstream:
    return {i: torch.full_like(weight, float(weight.mean())) for i, weight in upstream.items()}


def reduced(study: Study, k: int) -> str | None:
    """``"mean"`` or ``"sum"`` where the claim knows ``grad_output`` only by that, else ``None``."""
    verdicts, near = set(), _Near()
    for s, scene in enumerate(study.scenes):
        upstream = study.upstream[s][k]
        if not bool((scene.claim[k] != 0).any()):
            return None
        if max(weight.numel() for weight in upstream.values()) < 2 or not study.derived:
            return None
        flat = _averaged(upstream)
        truth, level = scene.truth_for(upstream), scene.truth_for(flat)
        assert truth is not None and level is not None
        if near(truth[k], level[k]) or not near(scene.claim[k], scene.claim_for(flat)[k]):
            return None
        count = sum(weight.numel() for weight in upstream.values())
        verdicts.add("sum" if near(scene.claim[k], count * level[k]) else "mean")
    return verdicts.pop() if len(verdicts) == 1 else None


def take_out(study: Study, k: int, kind: Kind, how: str | None = None) -> bool:
    """Change what is compared so that this use of ``grad_output`` is no difference any more.

    Returns whether that could be done; then what is still different has another cause.
    """
    for s, scene in enumerate(study.scenes):
        upstream = scene.upstream
        if kind is Kind.GRAD_OUTPUT_IGNORED:
            instead = _ones(upstream)
        elif kind is Kind.GRAD_OUTPUT_TWICE:
            instead = {i: weight * weight for i, weight in upstream.items()}
        elif kind is Kind.GRAD_OUTPUT_INVERTED:
            instead = {i: 1 / weight for i, weight in upstream.items()}
        elif kind is Kind.GRAD_OUTPUT_REDUCED:
            instead = _averaged(upstream)
            if how == "sum":
                count = sum(weight.numel() for weight in upstream.values())
                instead = _scaled(instead, float(count))
        elif kind is Kind.GRAD_OUTPUT_PARTLY and (single := _single(upstream)) is not None:
            # The part that does not grow with `grad_output` gets its factor.
            constant = scene.claim_for(_scaled(upstream, 0.0))[k]
            study.claim[s][k] = study.claim[s][k] - constant + constant * single
            continue
        else:
            return False
        truth = scene.truth_for(instead)
        if truth is None:
            return False
        study.upstream[s][k] = instead
        study.truth[s][k] = truth[k]
    return True


def _single(upstream: Upstream) -> float | None:
    """The one number sent backward, where the loss is one number."""
    weights = list(upstream.values())
    if len(weights) == 1 and weights[0].numel() == 1 and math.isfinite(float(weights[0])):
        return float(weights[0])
    return None
