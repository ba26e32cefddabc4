"""How value and gradient of a loss grow when every sample comes several times.

A mean does not change, and each copy of a sample gets its share of the gradient. A sum grows with
the number of copies `k`, what was divided by the batch size twice shrinks with it, and a sum of
such terms is a mixture: `a + b k + c / k`. Three measurements determine the mixture, a fourth one
tells whether the loss is one at all; a loss that couples its samples usually is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lossproof.checks.batch import Batch, batch_of

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

Tensor = torch.Tensor

NOTE = "scaling"
COPIES = (1, 2, 3, 4)
EXACT = 1e-8
"""Relative error up to which the fourth measurement is what the first three say."""
PRESENT = 1e-6
"""Share of the whole from which on a part counts as there."""


@dataclass(frozen=True)
class Growth:
    """The parts of a quantity that stay, grow and shrink with the number of copies."""

    constant: float
    linear: float
    inverse: float
    exact: bool
    """Whether the quantity is such a mixture."""
    power: float | None = None
    """The exponent, where the quantity goes with a power of the number of copies."""

    @property
    def parts(self) -> frozenset[str]:
        """The names of the parts that are there."""
        shares = {"constant": self.constant, "linear": self.linear, "inverse": self.inverse}
        return frozenset(name for name, share in shares.items() if share > PRESENT)

    def is_only(self, *parts: str) -> bool:
        """Whether it is made of these parts, exactly; a quantity that is zero always is."""
        return self.exact and self.parts <= set(parts)


@dataclass(frozen=True)
class Scaling:
    """How a loss grows with the number of copies of its batch."""

    batch: Batch
    value: Growth
    """Of the value; of the mean of its elements where it has several."""
    gradients: tuple[tuple[str, Growth], ...]
    """For each leaf the growth of its gradient. That of one copy of a sample is multiplied by the
    number of copies, so that a mean is constant here, too."""
    ratio: float
    """The value for two copies, divided by that for one."""
    shared: frozenset[str] = frozenset()
    """The leaves that all samples share: parameters, and inputs without samples."""

    @property
    def all(self) -> tuple[Growth, ...]:
        """The growth of the value and of every gradient."""
        return (self.value, *(growth for _, growth in self.gradients))

    def is_only(self, *parts: str) -> bool:
        """Whether value and gradients are made of these parts, exactly."""
        return all(growth.is_only(*parts) for growth in self.all)

    @property
    def parts(self) -> frozenset[str]:
        """The parts that the gradient for some leaf has."""
        return frozenset().union(*(growth.parts for _, growth in self.gradients))

    @property
    def parts_by_sample(self) -> frozenset[str]:
        """The same for leaves that are counted in samples: a penalty on a parameter stays out."""
        return frozenset().union(
            *(growth.parts for name, growth in self.gradients if name not in self.shared)
        )


def scaling_of(case: Examination) -> Scaling | None:
    """Measure the growth, once; ``None`` where the batch is not known or a value not finite."""
    if NOTE not in case.notes:
        case.notes[NOTE] = _measured(case)
    found: Scaling | None = case.notes[NOTE]
    return found


def _measured(case: Examination) -> Scaling | None:
    batch = batch_of(case)
    if batch is None:
        return None
    found = [
        case.evaluate(
            batch.repeated(case.small.values, copies), dtype=torch.float64, upstream=_of_mean
        )
        for copies in COPIES
    ]
    if any(f.failed or f.value is None or not _is_finite(f) for f in found):
        return None
    values = [_mean(f) for f in found]
    gradients = []
    for leaf, name in enumerate(case.leaf_names):
        if found[0].gradients and found[0].gradients[leaf] is not None:
            gradients.append((name, growth([_share(case, batch, f, leaf) for f in found])))
    first, second = float(values[0]), float(values[1])
    ratio = second / first if first else float("nan")
    counted = {
        case.inputs.arguments[i].name
        for i in case.inputs.differentiable
        if batch.axes[i] is not None
    }
    shared = frozenset(case.leaf_names).difference(counted)
    return Scaling(batch, growth(values), tuple(gradients), ratio, shared)


def _of_mean(value: Tensor) -> Tensor:
    return torch.full_like(value, 1 / max(value.numel(), 1))


def _mean(found: Evaluation) -> Tensor:
    assert found.value is not None
    return found.value.detach().double().mean().reshape(1)


def _is_finite(found: Evaluation) -> bool:
    tensors = [found.value, *found.gradients]
    return all(t is None or bool(torch.isfinite(t.detach()).all()) for t in tensors)


def _share(case: Examination, batch: Batch, found: Evaluation, leaf: int) -> Tensor:
    """The gradient of a leaf; of a batched one that of the first copy, times their number."""
    gradient = found.gradient(leaf).detach().double()
    positions = case.inputs.differentiable
    axis = batch.axes[positions[leaf]] if leaf < len(positions) else None
    if axis is None:
        return gradient.reshape(-1)
    copies = gradient.shape[axis] // batch.size
    return (gradient.narrow(axis, 0, batch.size) * copies).reshape(-1)


def growth(measured: Sequence[Tensor]) -> Growth:
    """Take a quantity, measured for 1 to 4 copies, apart.

    Example:
        >>> import torch
        >>> sorted(growth([torch.tensor([5.0 + 2 * k]).double() for k in (1, 2, 3, 4)]).parts)
        ['constant', 'linear']
    """
    known = COPIES[:3]
    system = torch.tensor([[1.0, k, 1 / k] for k in known], dtype=torch.float64)
    parts = torch.linalg.solve(system, torch.stack(list(measured[:3])))
    last = COPIES[3]
    told = parts[0] + last * parts[1] + parts[2] / last
    size = max(float(part.norm()) for part in measured)
    if size == 0:
        return Growth(0.0, 0.0, 0.0, exact=True)
    constant, linear, inverse = (float(part.norm()) / size for part in parts)
    exact = float((told - measured[3]).norm()) <= EXACT * size
    return Growth(constant, linear, inverse, exact, _power(measured))


def _power(measured: Sequence[Tensor]) -> float | None:
    """The exponent of a pure power law."""
    one, two, _, four = (part.double() for part in measured)
    first, second = float(one.norm()), float(two.norm())
    if not first or not second:
        return None
    ratio = second / first
    if float((two - ratio * one).norm()) > EXACT * second:
        return None
    if float((four - ratio * two).norm()) > EXACT * float(four.norm()):
        return None
    return float(torch.log2(torch.tensor(ratio, dtype=torch.float64)))
