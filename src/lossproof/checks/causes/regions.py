"""A gradient that is wrong only in a region of the inputs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.factors import constant_between
from lossproof.checks.causes.study import Study

Tensor = torch.Tensor

PURE = 0.98
"""So many of the elements inside the region must be wrong, and all outside right."""


@dataclass(frozen=True)
class _Region:
    feature: str
    low: float | None
    high: float | None
    purity: float

    @property
    def text(self) -> str:
        if self.low is None:
            return f"{self.feature} <= {self.high:.4g}"
        if self.high is None:
            return f"{self.feature} >= {self.low:.4g}"
        return f"{self.low:.4g} <= {self.feature} <= {self.high:.4g}"

    def contains(self, values: Tensor) -> Tensor:
        inside = torch.ones_like(values, dtype=torch.bool)
        if self.low is not None:
            inside &= values >= self.low - 1e-12
        if self.high is not None:
            inside &= values <= self.high + 1e-12
        return inside


def wrong_region(study: Study, k: int) -> Cause | None:
    """A threshold on an argument, or on a difference of two, that parts right from wrong."""
    bad = _wrong_elements(study, 0, k)
    share = float(bad.double().mean())
    if not 0 < share < 0.97:
        return None
    features = _features(study, 0, k)
    regions = [r for r in (_stump(name, f, bad) for name, f in features.items()) if r is not None]
    if len(study.scenes) > 1:
        later, wrong = _features(study, 1, k), _wrong_elements(study, 1, k)
        regions = [r for r in regions if _holds(r, later[r.feature], wrong)]
    if not regions:
        return None
    best = max(
        regions,
        key=lambda r: (r.purity, -(r.low is not None) - (r.high is not None), -len(r.feature)),
    )
    return _cause(study, k, best, bad)


def _wrong_elements(study: Study, s: int, k: int) -> Tensor:
    truth, claim = study.truth[s][k], study.claim[s][k]
    scale = max(float(truth.abs().max()), float(claim.abs().max()))
    return (claim - truth).abs() > max(study.tolerance, 1e-8) * scale


def _features(study: Study, s: int, k: int) -> dict[str, Tensor]:
    scene, shape = study.scenes[s], study.truth[s][k].shape
    found: dict[str, Tensor] = {}
    for i, value in enumerate(scene.args):
        if isinstance(value, Tensor) and not value.is_complex():
            try:
                found[study.function.name_of(i)] = value.detach().double().expand(shape)
            except RuntimeError:
                continue
    pairs = {
        f"{a} - {b}": found[a] - found[b] for a, b in itertools.combinations(list(found)[:4], 2)
    }
    found.update(pairs)
    found.update({f"abs({name})": value.abs() for name, value in list(found.items())})
    return found


def _stump(name: str, values: Tensor, bad: Tensor) -> _Region | None:
    wrong, right = values[bad], values[~bad]
    low, high = float(wrong.min()), float(wrong.max())
    open_below = not bool((right < low).any())
    open_above = not bool((right > high).any())
    inside = (values >= low) & (values <= high)
    purity = float(bad[inside].double().mean())
    if purity < PURE or (open_below and open_above):
        return None
    return _Region(name, None if open_below else low, None if open_above else high, purity)


def _holds(region: _Region, values: Tensor, bad: Tensor) -> bool:
    """Whether the same rule parts right from wrong at the second point, up to its margin."""
    inside = region.contains(values)
    if not bool(bad.any()) or bool(bad.all()):
        return False
    return float((inside == bad).double().mean()) >= 0.9


def _cause(study: Study, k: int, region: _Region, bad: Tensor) -> Cause:
    claim, truth = study.claim[0][k][bad], study.truth[0][k][bad]
    factor = constant_between(claim, truth)
    notes = []
    if factor is not None and bool(
        ((claim - factor * truth).abs() <= 1e-8 * truth.abs().max()).all()
    ):
        notes.append(f"there it is {factor:.6g} times what it should be")
    else:
        notes.append(
            f"there it is for instance {float(claim[0]):.6g} where the derivative is "
            f"{float(truth[0]):.6g}"
        )
    return Cause(
        Kind.REGION,
        f"the gradient of `{study.name(k)}` is wrong only where `{region.text}`",
        help=f"look at how backward treats the elements with `{region.text}`",
        evidence={"wrong": int(bad.sum()), "elements": bad.numel()},
        notes=tuple(notes),
    )
