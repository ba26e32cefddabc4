"""Least squares of a loss's values on the terms of a known one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lossproof.checks.likeness.known import Terms

Tensor = torch.Tensor

EXACT = 2e-4
"""The relative residual of the same function: stabilisers such as ``eps=1e-8`` make up to this."""
SAME = 2e-3
"""By how much two coefficients may differ and be the same."""
COLLINEAR = 1e-7
NOTHING = 1e-3
"""A column that makes less than this share of the spread is not in the loss."""


@dataclass(frozen=True)
class Fit:
    """Coefficients with which columns give the values."""

    coefficients: tuple[float, ...]
    offset: float
    residual: float
    """The largest deviation, relative to the spread of the values."""
    shares: tuple[float, ...]
    """How much of the spread each column makes; NaN for a column that does not move."""
    condition: float
    """How much of the residual may be found in the coefficients; infinite where others fit, too."""

    @property
    def determined(self) -> bool:
        """Whether the coefficients are known well enough to be read."""
        return self.residual * self.condition < SAME

    @property
    def exact(self) -> bool:
        """Whether the columns give the values."""
        return self.residual < EXACT

    def positive(self, *, all_seen: bool) -> bool:
        """Whether every column counts, with a positive factor.

        Args:
            all_seen: whether a column that does not move (a margin that was never reached) is
                an objection.
        """
        return all(
            share > NOTHING or (math.isnan(share) and not all_seen) for share in self.shares
        ) and any(share > NOTHING for share in self.shares)

    @property
    def negative(self) -> bool:
        """Whether every column counts, with a negative factor."""
        return all(share < -NOTHING for share in self.shares)


def fit(values: Tensor, columns: Tensor) -> Fit | None:
    """Fit ``values`` [K] by the columns of a matrix [K, m] and a constant.

    Returns:
        ``None`` where the values hardly vary: anything would fit.
    """
    spread = float(values.max() - values.min())
    if not spread > 1e-9 * float(values.abs().max()) or not bool(torch.isfinite(columns).all()):
        return None
    middle = columns.mean(0)
    centred = columns - middle
    scale = centred.abs().amax(0)
    size = columns.abs().amax(0).clamp_min(1e-300)
    moving = scale > 1e-10 * size
    used = centred[:, moving] / scale[moving]
    target = values - values.mean()
    coefficients = torch.zeros(columns.shape[1], dtype=torch.float64)
    condition = 1.0 if bool(moving.all()) else math.inf
    if used.shape[1]:
        u, s, v = torch.linalg.svd(used, full_matrices=False)
        keep = s > COLLINEAR * s.max()
        unique = bool(keep.all()) and used.shape[0] > used.shape[1]
        condition = condition * float(s.max() / s.min()) if unique else math.inf
        inverse = torch.where(keep, 1 / s, torch.zeros_like(s))
        coefficients[moving] = (v.t() @ (inverse * (u.t() @ target))) / scale[moving]
    gap = (centred @ coefficients - target).abs().max()
    shares = torch.where(moving, coefficients * scale / spread, torch.nan)
    offset = float(values.mean() - middle @ coefficients)
    residual = max(float(gap) / spread, 1e-14)
    return Fit(tuple(coefficients.tolist()), offset, residual, tuple(shares.tolist()), condition)


@dataclass(frozen=True)
class Group:
    """The terms that share a factor."""

    name: str
    terms: tuple[str, ...]


def right_columns(samples: Sequence[Terms]) -> tuple[list[Group], Tensor]:
    """One column for each group of terms with their right coefficients."""
    first = samples[0]
    groups: dict[str, list[str]] = {}
    for name, term in first.items():
        if term.right is None:
            groups[f"\0{name}"] = [name]
        elif term.right != 0:
            groups.setdefault(term.group, []).append(name)
    rows = [
        [
            sum(float(sample[name].value.sum()) * (sample[name].right or 1.0) for name in names)
            for names in groups.values()
        ]
        for sample in samples
    ]
    named = [Group(key, tuple(names)) for key, names in groups.items()]
    return named, torch.tensor(rows, dtype=torch.float64).reshape(len(samples), len(groups))


def weighted_sum(terms: Terms, coefficients: Sequence[float]) -> Tensor:
    """The loss that a fit of :func:`right_columns` found, but for its constant."""
    groups: dict[str, list[Tensor]] = {}
    for name, term in terms.items():
        if term.right is None:
            groups[f"\0{name}"] = [term.value.sum()]
        elif term.right != 0:
            groups.setdefault(term.group, []).append(term.right * term.value.sum())
    parts = [
        coefficient * torch.stack(values).sum()
        for coefficient, values in zip(coefficients, groups.values(), strict=True)
    ]
    return torch.stack(parts).sum()


def all_columns(samples: Sequence[Terms]) -> tuple[tuple[str, ...], Tensor]:
    """One column for each term by itself."""
    names = tuple(samples[0])
    rows = [[float(sample[name].value.sum()) for name in names] for sample in samples]
    return names, torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class Deviation:
    """A term whose coefficient is not what it should be."""

    term: str
    found: float
    wanted: float

    @property
    def ratio(self) -> float | None:
        """How many times too large it is."""
        return self.found / self.wanted if self.wanted else None


def deviations(terms: Terms, coefficients: Sequence[float]) -> tuple[float, list[Deviation]]:
    """Which coefficients are wrong, and the factor by which the others are right.

    Within each group the factor is the one that makes most terms right.
    """
    found = dict(zip(terms, coefficients, strict=True))
    largest = max(abs(c) for c in found.values())
    groups: dict[str, list[str]] = {}
    for name, term in terms.items():
        groups.setdefault(term.group, []).append(name)
    wrong: list[Deviation] = []
    overall = 0.0
    for names in groups.values():
        fixed = {n: terms[n].right for n in names if terms[n].right}
        ratios = [found[n] / right for n, right in fixed.items() if right]
        factor = max(ratios, key=lambda r: (_agreeing(r, ratios), r > 0), default=0.0)
        overall = overall or factor
        for name in names:
            right = terms[name].right
            if right is None:
                if found[name] < -SAME * largest:  # 0 is a weight, too: an ignored class
                    wrong.append(Deviation(name, found[name], -found[name]))
            elif abs(found[name] - factor * right) > SAME * max(
                abs(factor * right), SAME * largest
            ):
                wrong.append(Deviation(name, found[name], factor * right))
    return overall, wrong


def opposite_groups(groups: Sequence[Group], found: Fit) -> list[Deviation]:
    """The groups that are subtracted where others are added; none where one does not count."""
    if not all(abs(share) > NOTHING for share in found.shares):
        return []
    if all(share > 0 for share in found.shares) or all(share < 0 for share in found.shares):
        return []
    return [
        Deviation(group.name.lstrip("\0"), factor, -factor)
        for group, factor in zip(groups, found.coefficients, strict=True)
        if factor < 0
    ]


def _agreeing(ratio: float, ratios: Sequence[float]) -> int:
    return sum(abs(other - ratio) <= SAME * abs(ratio) for other in ratios)
