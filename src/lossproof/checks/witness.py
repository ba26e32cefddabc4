"""The true gradient of a hand-written backward, by witnesses that do not know of each other.

An ``autograd.Function`` claims a gradient. Three witnesses say what it should be:

* **re-derivation** runs ``forward`` as ordinary differentiable code, so that autograd itself
  derives the gradient, exactly and for every element;
* **forward mode** carries dual numbers through the same Python: a directional derivative, exact;
* **finite differences** call ``forward`` as a function of numbers and trust no derivative at all.

:mod:`~lossproof.checks.arbitration` hears them and decides.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from lossproof.checks.examination import Examination
from lossproof.checks.finite_differences import Point, derivative
from lossproof.checks.global_state import untouched_globals
from lossproof.checks.ordinary_code import (
    AsOrdinaryCode,
    Branches,
    LiftedBackward,
    StandInContext,
    perform_forward,
)
from lossproof.checks.subject import separate_setup
from lossproof.checks.trace import FunctionCall, Recorder

Tensor = torch.Tensor
Gradients = tuple["Tensor | None", ...]
Measure = Callable[[Sequence[Any], "dict[int, Tensor]"], "tuple[Tensor, ...]"]
"""Finds a gradient: of the arguments, for what is sent backward to each output."""

MAKERS = frozenset(
    """
    zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty
    new_full new_tensor empty_strided new_empty_strided
    """.split()
)
"""Operations that take only the shape of their operand: no number leaves through them."""


@contextlib.contextmanager
def double_precision(case: Examination) -> Iterator[None]:
    """Everything the block computes is float64, and leaves no trace in the loss or in torch."""
    default = torch.get_default_dtype()
    with untouched_globals(case.seed), case.subject.state.lent(torch.float64):
        torch.set_default_dtype(torch.float64)
        try:
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            torch.set_default_dtype(default)


def _as_tuple(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


@dataclass(eq=False)
class Derivation:
    """``forward`` run as ordinary code: the graph of derivatives that autograd built itself."""

    leaves: tuple[Tensor, ...]
    """The arguments that want a gradient."""
    outputs: tuple[Any, ...]
    recorder: Recorder
    saved: StandInContext

    def gradient(self, upstream: dict[int, Tensor], *, create_graph: bool = False) -> Gradients:
        """The gradient for each leaf of the outputs weighted by ``upstream``."""
        pairs = [
            (self.outputs[i], weight)
            for i, weight in upstream.items()
            if isinstance(self.outputs[i], Tensor) and self.outputs[i].requires_grad
        ]
        if not pairs or not self.leaves:
            return (None,) * len(self.leaves)
        return torch.autograd.grad(
            [output for output, _ in pairs],
            self.leaves,
            [weight for _, weight in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )

    @property
    def blind(self) -> str | None:
        """Why the graph may lack a path, if a number left it on its way through ``forward``."""
        for stop in self.recorder.stops:
            if not stop.discrete and stop.operation.name not in MAKERS:
                return f"`{stop.operation.name}` takes numbers out of torch in `forward`"
        return None


@dataclass(eq=False)
class Claim:
    """What the hand-written backward says."""

    gradients: Gradients
    narrow: bool
    """Whether anything was computed in less than float64, in spite of float64 arguments."""


class CustomFunction:
    """An ``autograd.Function`` with arguments in float64, run in every way a witness needs.

    Use it inside :func:`double_precision`.
    """

    def __init__(self, case: Examination, call: FunctionCall) -> None:
        self.cls = call.cls
        self.site = call.site
        self.sources = case.subject.sources
        self.seed = case.seed
        self.args = tuple(_double(value) for value in call.args)
        self.needs = call.needs
        self.wanted = tuple(
            i
            for i, (value, needs) in enumerate(zip(self.args, call.needs, strict=True))
            if needs and isinstance(value, Tensor) and value.is_floating_point()
        )
        self.argument_names = _argument_names(self.cls, len(self.args))

    @property
    def numel(self) -> int:
        """How many elements want a gradient."""
        return sum(self.args[i].numel() for i in self.wanted)

    def name_of(self, position: int) -> str:
        """The name that ``forward`` gives to an argument."""
        return self.argument_names[position]

    def point(self, args: Sequence[Any]) -> list[Tensor]:
        """The wanted arguments alone."""
        return [args[i] for i in self.wanted]

    def at(self, point: Sequence[Tensor]) -> tuple[Any, ...]:
        """The arguments with the wanted ones replaced."""
        args = list(self.args)
        for i, value in zip(self.wanted, point, strict=True):
            args[i] = value
        return tuple(args)

    def _reseed(self) -> None:
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)

    def _copies(self, args: Sequence[Any], *, grad: bool) -> tuple[list[Any], list[Tensor]]:
        """Fresh arguments that are no leaves (``forward`` may write to them), and their leaves."""
        copies = [value.detach().clone() if isinstance(value, Tensor) else value for value in args]
        leaves = []
        if grad:
            for i in self.wanted:
                leaf = copies[i].requires_grad_()
                leaves.append(leaf)
                copies[i] = leaf.clone()
        return copies, leaves

    def derive(self, args: Sequence[Any] | None = None) -> Derivation:
        """Run ``forward`` as ordinary code under autograd."""
        copies, leaves = self._copies(self.args if args is None else args, grad=True)
        inputs = [value if isinstance(value, Tensor) else None for value in copies]
        recorder = AsOrdinaryCode(self.sources, inputs, graph=True)
        self._reseed()
        with recorder:
            output, ctx = perform_forward(self.cls, copies, self.needs)
        return Derivation(tuple(leaves), _as_tuple(output), recorder, ctx)

    def run(self, args: Sequence[Any] | None = None) -> tuple[tuple[Any, ...], StandInContext]:
        """Run ``forward`` on plain numbers, as ``apply`` does, with a context to look into."""
        copies, _ = self._copies(self.args if args is None else args, grad=False)
        self._reseed()
        with torch.no_grad(), Branches():
            output, ctx = perform_forward(self.cls, copies, self.needs)
        return _as_tuple(output), ctx

    def apply(
        self, args: Sequence[Any], upstream: dict[int, Tensor], *, create_graph: bool = False
    ) -> tuple[Claim, tuple[Tensor, ...]]:
        """The hand-written gradient, through torch's own machinery, and the leaves it is for."""
        copies, leaves = self._copies(args, grad=True)
        self._reseed()
        with Recorder(self.sources, (), lift=True):
            outputs = _as_tuple(self._applied(copies))
        pairs = [
            (outputs[i], weight)
            for i, weight in upstream.items()
            if isinstance(outputs[i], Tensor) and outputs[i].requires_grad
        ]
        found: Gradients = (None,) * len(leaves)
        lifted = LiftedBackward()
        if pairs and leaves:
            with lifted:
                found = torch.autograd.grad(
                    [output for output, _ in pairs],
                    leaves,
                    [weight for _, weight in pairs],
                    create_graph=create_graph,
                    allow_unused=True,
                )
        return Claim(found, lifted.narrow), tuple(leaves)

    def _applied(self, copies: Sequence[Any]) -> Any:
        return self.cls.apply(*copies)  # type: ignore[no-untyped-call]

    def gradient(self, args: Sequence[Any], upstream: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """The hand-written gradient, with zeros where it is ``None``."""
        return filled(self.apply(args, upstream)[0].gradients, self.point(args))

    def differentiable_outputs(self) -> tuple[int, ...]:
        """Which outputs of ``apply`` carry a gradient."""
        copies, _ = self._copies(self.args, grad=True)
        self._reseed()
        with Recorder(self.sources, (), lift=True):
            outputs = _as_tuple(self._applied(copies))
        return tuple(
            i for i, out in enumerate(outputs) if isinstance(out, Tensor) and out.requires_grad
        )

    def directional(
        self, args: Sequence[Any], upstream: dict[int, Tensor], tangents: Sequence[Tensor | None]
    ) -> float:
        """The derivative along ``tangents`` by dual numbers through the Python of ``forward``."""
        copies, _ = self._copies(args, grad=False)
        self._reseed()
        with forward_ad.dual_level(), torch.no_grad():
            for i, tangent in zip(self.wanted, tangents, strict=True):
                if tangent is not None:
                    copies[i] = forward_ad.make_dual(copies[i], tangent)  # type: ignore[no-untyped-call]
            inputs = [value if isinstance(value, Tensor) else None for value in copies]
            with AsOrdinaryCode(self.sources, inputs, graph=False):
                output, _ = perform_forward(self.cls, copies, self.needs)
            total = 0.0
            for i, weight in upstream.items():
                dual = forward_ad.unpack_dual(_as_tuple(output)[i])  # type: ignore[no-untyped-call]
                moved = dual.tangent
                if moved is not None:
                    total += float((moved * weight).sum())
        return total

    def by_forward_mode(
        self, args: Sequence[Any], upstream: dict[int, Tensor]
    ) -> tuple[Tensor, ...]:
        """The whole gradient by forward mode, one element at a time."""

        def slope(k: int, unit: Tensor) -> float:
            tangents: list[Tensor | None] = [None] * len(self.wanted)
            tangents[k] = unit
            return self.directional(args, upstream, tangents)

        return self._element_by_element(args, slope)

    def by_finite_differences(
        self, args: Sequence[Any], upstream: dict[int, Tensor]
    ) -> tuple[Tensor, ...]:
        """The whole gradient by finite differences, one element at a time.

        Raises:
            ArithmeticError: there is an element for which no step is to be trusted.
        """
        value, point = self.value(upstream), self.point(args)

        def slope(k: int, unit: Tensor) -> float:
            found = derivative(value, point, k, unit)
            if found is None:
                raise ArithmeticError("no step gives a derivative to be trusted")
            return found

        return self._element_by_element(args, slope)

    def _element_by_element(
        self, args: Sequence[Any], slope: Callable[[int, Tensor], float]
    ) -> tuple[Tensor, ...]:
        columns = []
        for k, tensor in enumerate(self.point(args)):
            units = torch.eye(tensor.numel(), dtype=tensor.dtype).reshape(-1, *tensor.shape)
            numbers = [slope(k, unit) for unit in units]
            columns.append(torch.tensor(numbers, dtype=tensor.dtype).reshape(tensor.shape))
        return tuple(columns)

    def value(self, upstream: dict[int, Tensor]) -> Callable[[Point], tuple[float, list[Tensor]]]:
        """``forward`` as a function of numbers: outputs weighted by ``upstream``, and branches."""

        def value(point: Point) -> tuple[float, list[Tensor]]:
            copies, _ = self._copies(self.at(point), grad=False)
            self._reseed()
            branches = Branches()
            with torch.no_grad(), branches:
                output, _ = perform_forward(self.cls, copies, self.needs)
            outputs = _as_tuple(output)
            total = sum(float((outputs[i] * weight).sum()) for i, weight in upstream.items())
            return float(total), branches.taken

        return value


def _double(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(torch.float64)
    return value


def _argument_names(cls: type[torch.autograd.Function], count: int) -> tuple[str, ...]:
    import inspect

    try:
        parameters = list(inspect.signature(cls.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if parameters and not separate_setup(cls):
        parameters = parameters[1:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(names[i] if i < len(names) else f"input {i}" for i in range(count))


def filled(gradients: Gradients, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients with zeros in the place of ``None``."""
    return tuple(
        torch.zeros_like(tensor) if gradient is None else gradient.detach()
        for gradient, tensor in zip(gradients, like, strict=True)
    )


def relative_error(found: Tensor, right: Tensor, floor: float = 0.0) -> float:
    """The largest difference of two gradients, relative to the larger one's largest element.

    Elements where ``right`` itself is not finite are left out: a hand-written backward may well be
    finite where autograd is not, which is what people write one for.
    """
    if found.shape != right.shape:
        return math.inf
    finite = torch.isfinite(right)
    if not bool(finite.any()):
        return 0.0
    found, right = found[finite], right[finite]
    if not bool(torch.isfinite(found).all()):
        return math.inf
    scale = max(float(found.abs().max()), float(right.abs().max()), floor)
    return 0.0 if scale == 0 else float((found - right).abs().max()) / scale


def random_upstream(outputs: dict[int, Tensor], seed: int) -> dict[int, Tensor]:
    """A gradient to send backward in which no two elements are equal."""
    generator = torch.Generator().manual_seed(seed * 7919 + 31_337)
    return {
        i: torch.rand(output.shape, generator=generator, dtype=torch.float64) + 0.5
        for i, output in outputs.items()
    }


@dataclass(eq=False)
class Scene:
    """The truth and the claim at one point, for one gradient sent backward."""

    function: CustomFunction
    args: tuple[Any, ...]
    upstream: dict[int, Tensor]
    truth: tuple[Tensor, ...]
    claim: tuple[Tensor, ...]
    derivation: Derivation | None
    measure: Measure | None = None
    """Gives the truth where there is no re-derivation."""

    @property
    def point(self) -> list[Tensor]:
        """The arguments that want a gradient."""
        return self.function.point(self.args)

    def truth_for(self, upstream: dict[int, Tensor]) -> tuple[Tensor, ...] | None:
        """The true gradient for another gradient sent backward."""
        if self.derivation is None:
            return None if self.measure is None else self.measure(self.args, upstream)
        return filled(self.derivation.gradient(upstream), self.point)

    def claim_for(self, upstream: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """The hand-written gradient for another gradient sent backward."""
        return self.function.gradient(self.args, upstream)

    @functools.cached_property
    def floor(self) -> float:
        """Differences are rounding when they are tiny beside the largest gradient or the value."""
        largest = max(
            (float(g.abs().max()) for g in (*self.truth, *self.claim) if g.numel()), default=0.0
        )
        return 1e-6 * largest if math.isfinite(largest) else 0.0

    def error(self, k: int) -> float:
        """By how much the claim for the ``k``-th wanted argument is wrong, relatively."""
        return relative_error(self.claim[k], self.truth[k], self.floor)
