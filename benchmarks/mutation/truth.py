"""What is true of a mutant, decided without lossproof.

The gradient of a mutant is compared, in float64 and for a random `grad_output`, with torch's
automatic derivative of the module's ``reference``: the same mathematics written another way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.mutation.catalogue import Loaded

SEEDS = (0, 1, 2, 3)
CHECKED_SEED = 0
"""The seed of the inputs that the check is given."""

EQUAL = 1e-10
"""Relative to the norm of the gradient; float64 leaves two right formulas within about 1e-14."""

REAL, EQUIVALENT, LOUD = "real", "equivalent", "loud"
SECOND_ORDER, SPECIAL_POINT = "second-order", "special-point"


@dataclass(frozen=True)
class Relation:
    """Something that is true of one wrong gradient at all inputs."""

    word: str
    """``factor``, ``zero``, ``none-returned``, ``swapped``, ``grad-output-ignored`` or
    ``mean-repeated``."""
    factor: float | None = None
    """The wrong gradient is this times the right one."""


@dataclass(frozen=True)
class Truth:
    """The class of a mutant, and how its gradients are related to the right ones."""

    label: str
    """``real``, ``equivalent``, ``loud`` (raises), ``second-order`` (only the derivative of the
    gradient is wrong) or ``special-point`` (only at a tie or at zero, where it is not finite)."""
    relations: tuple[tuple[Relation, ...], ...] = ()
    """For each wrong gradient, all that is true of it; nothing where no word says it."""
    visible: bool = True
    """Whether the fault shows at the inputs that the check is given."""


def classify(mutant: Loaded, right: Loaded) -> Truth:
    """Say what a mutant of the backward of ``right`` is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            samples = [_sample(mutant, right, seed) for seed in SEEDS]
        except Exception:  # whatever a wrong backward raises, it is loud
            return Truth(LOUD)
        wrong = [sample.wrong for sample in samples]
        if not any(wrong):
            if not _finite_at_special_points(mutant, right):
                return Truth(SPECIAL_POINT)
            return Truth(EQUIVALENT if _right_twice(mutant, right) else SECOND_ORDER)
        positions = sorted({i for sample in samples for i in sample.wrong})
        relations = tuple(tuple(_relations(samples, mutant, i)) for i in positions)
        return Truth(REAL, relations, visible=bool(wrong[SEEDS.index(CHECKED_SEED)]))


@dataclass(frozen=True)
class Sample:
    """The gradients at one set of inputs: ``None`` where autograd gives none."""

    found: Sequence[Tensor | None]
    wanted: Sequence[Tensor]
    seed: int

    @property
    def wrong(self) -> list[int]:
        """The positions at which the gradient is not the right one."""
        pairs = zip(self.found, self.wanted, strict=True)
        return [i for i, (found, wanted) in enumerate(pairs) if not equal(found, wanted)]


def equal(found: Tensor | None, wanted: Tensor) -> bool:
    """Whether two gradients agree; no gradient counts as zeros."""
    if found is None:
        found = torch.zeros_like(wanted)
    scale = max(float(wanted.norm()), 1e-300)
    return bool((found - wanted).norm() <= EQUAL * scale)


def grad_output_for(value: Tensor, seed: int) -> Tensor:
    """A random `grad_output`, of a generator that shares no seed with the inputs."""
    generator = torch.Generator().manual_seed(15485863 + seed)
    return torch.randn(value.shape, generator=generator, dtype=value.dtype)


def leaves(arguments: Sequence[Any]) -> list[Tensor]:
    """The inputs whose gradient is asked for."""
    return [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]


def gradients(
    function: Callable[..., Tensor], arguments: Sequence[Any], grad_output: Tensor
) -> Sequence[Tensor | None]:
    """The gradient for every input that asks for one."""
    return torch.autograd.grad(
        function(*arguments), leaves(arguments), grad_output, allow_unused=True
    )


def _sample(mutant: Loaded, right: Loaded, seed: int) -> Sample:
    arguments = right.inputs(seed)
    grad_output = grad_output_for(right.reference(*arguments).detach(), seed)
    wanted = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(
            leaves(arguments), gradients(right.reference, arguments, grad_output), strict=True
        )
    ]
    found = gradients(mutant.loss.apply, mutant.inputs(seed), grad_output)
    return Sample(found, wanted, seed)


def _finite_at_special_points(mutant: Loaded, right: Loaded) -> bool:
    """Whether the gradient is finite at ties and zeros, wherever the unchanged backward is.

    Which of several subgradients is taken there is nobody's mistake, so values do not count.
    """
    return all(
        _finite(mutant, right, fill) or not _finite(right, right, fill) for fill in (0.0, 1.0)
    )


def _finite(loaded: Loaded, right: Loaded, fill: float) -> bool:
    arguments = list(right.inputs(CHECKED_SEED))
    for i, argument in enumerate(arguments):
        if isinstance(argument, Tensor) and argument.requires_grad:
            arguments[i] = torch.full_like(argument, fill).requires_grad_()
    value = loaded.loss.apply(*arguments)
    found = gradients(loaded.loss.apply, arguments, grad_output_for(value.detach(), CHECKED_SEED))
    return all(g is None or bool(torch.isfinite(g).all()) for g in found)


def _right_twice(mutant: Loaded, right: Loaded) -> bool:
    """Whether the gradient has the right derivative, wherever the unchanged backward has it."""
    return all(_double_right(mutant, right, seed) for seed in SEEDS) or not all(
        _double_right(right, right, seed) for seed in SEEDS
    )


def _double_right(loaded: Loaded, right: Loaded, seed: int) -> bool:
    try:
        found = _second_order(loaded.loss.apply, right, seed)
    except RuntimeError:  # autograd's error for a backward that cannot be differentiated
        return False
    wanted = _second_order(right.reference, right, seed)
    return all(equal(f, w) for f, w in zip(found, wanted, strict=True))


def _second_order(function: Callable[..., Tensor], right: Loaded, seed: int) -> list[Tensor]:
    arguments = right.inputs(seed)
    value = function(*arguments)
    grad_output = grad_output_for(value.detach(), seed).requires_grad_()
    inputs = leaves(arguments)
    first = torch.autograd.grad(
        value, inputs, grad_output, create_graph=True, materialize_grads=True
    )
    # Every gradient has weights of its own: two that are each other's negative would cancel.
    total = sum((grad_output_for(g.detach(), seed + 1 + i) * g).sum() for i, g in enumerate(first))
    assert isinstance(total, Tensor)
    wrt = [*inputs, grad_output]
    return list(torch.autograd.grad(total, wrt, materialize_grads=True))


def _relations(samples: Sequence[Sample], mutant: Loaded, i: int) -> Iterator[Relation]:
    """All that is true of a gradient, at all seeds."""
    if all(sample.found[i] is None for sample in samples):
        yield Relation("none-returned", 0.0)
    if any(sample.found[i] is None for sample in samples):
        return
    factor = _factor(samples, i)
    if factor is not None:
        yield Relation("zero" if factor == 0 else "factor", factor)
    if factor == 0:
        return
    if all(_is_of_another_input(sample, i) for sample in samples):
        yield Relation("swapped")
    if all(_ignores_grad_output(mutant, sample, i) for sample in samples):
        yield Relation("grad-output-ignored")
    if all(_is_repeated_mean(sample, i) for sample in samples):
        yield Relation("mean-repeated")


def _factor(samples: Sequence[Sample], i: int) -> float | None:
    """The number that the right gradient was multiplied by, the same at every seed."""
    factors = []
    for sample in samples:
        found, wanted = sample.found[i], sample.wanted[i]
        assert found is not None
        factor = float((found * wanted).sum() / (wanted * wanted).sum())
        if not equal(found, factor * wanted):
            return None
        factors.append(factor)
    return (
        _rounded(factors[0])
        if max(factors) - min(factors) <= 1e-9 * max(map(abs, factors))
        else None
    )


def _rounded(factor: float) -> float:
    """A factor that is a whole number but for rounding is that number."""
    return float(round(factor)) if abs(factor - round(factor)) <= 1e-9 else factor


def _is_of_another_input(sample: Sample, i: int) -> bool:
    found = sample.found[i]
    return any(
        j != i and found is not None and wanted.shape == found.shape and equal(found, wanted)
        for j, wanted in enumerate(sample.wanted)
    )


def _ignores_grad_output(mutant: Loaded, sample: Sample, i: int) -> bool:
    """Whether the gradient is the same for another `grad_output`."""
    arguments = mutant.inputs(sample.seed)
    value = mutant.reference(*arguments).detach()
    other = gradients(mutant.loss.apply, arguments, grad_output_for(value, sample.seed + 1))[i]
    return other is not None and equal(sample.found[i], other)


def _is_repeated_mean(sample: Sample, i: int) -> bool:
    return equal(sample.found[i], sample.wanted[i].mean().expand_as(sample.wanted[i]))
