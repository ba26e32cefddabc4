"""What a factor in front of the loss does to its gradients.

``k * loss`` has ``k`` times the gradient of the loss: by ``torch.autograd.grad`` and in ``.grad``,
for a large ``k`` and a small one, at the first backward pass through a graph and at the second.
Where every node of the graph is torch's own that follows from the graph. Where one is not, a
gradient may have been computed in the forward pass already, and then each of these can fail alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from lossproof.checks.backward_graph import BackwardGraph
from lossproof.checks.examination import Evaluation, weights_like
from lossproof.checks.report import Location
from lossproof.checks.sources import Site, Sources
from lossproof.checks.trace import operation_name, tensors_in
from lossproof.checks.witness import relative_error

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor
Gradients = tuple[Tensor, ...]

EXACT = 1e-6
"""Up to this relative error a gradient counts as multiplied by the factor."""
CLEAR = 2e-2
"""From this relative error on it is not; in between, the backward pass may compute in float32."""
FACTORS = (3.0, 2.0**16, 2.0**-16)
"""The factors that are tried; the second is what a gradient scaler begins with."""
LARGE = FACTORS[1]


@dataclass(frozen=True)
class Misscaled:
    """Leaves whose gradient is not multiplied by a factor in front of the loss."""

    kind: Literal["written", "repeated", "disproportionate"]
    """Written to ``.grad`` by the forward pass; scaled again by a second backward pass; or other
    than the factor says."""
    factor: float
    times: dict[str, float]
    """By how much the gradient of each leaf grew."""
    wrong: tuple[str, ...]
    location: Location | None = None


@dataclass(frozen=True)
class FactorStudy:
    """What was found out about factors in front of the loss."""

    fault: Misscaled | None = None
    undecided: str | None = None
    """Why nothing can be said."""
    own_nodes: tuple[Any, ...] = ()
    """The nodes of the graph that are not torch's own."""
    refused: bool = False
    """Whether a second backward pass through one graph raises, although the graph was kept."""


def torchs_own(node: Any) -> bool:
    """Whether a node of a graph is the derivative of one of torch's own operations.

    Those are linear in the gradient that arrives, and have a derivative in turn or refuse it.
    """
    return type(node) is getattr(torch._C._functions, type(node).__name__, None)


def study_of(case: Examination) -> FactorStudy:
    """The study of a check, made once."""
    known = case.notes.get("factors")
    if known is None:
        known = case.notes["factors"] = _studied(case)
    assert isinstance(known, FactorStudy)
    return known


def _studied(case: Examination) -> FactorStudy:
    twin = case.twin
    nodes = tuple(node for node in BackwardGraph(twin).nodes if not torchs_own(node))
    if twin.written:
        return FactorStudy(_written(case), None, nodes)
    if not nodes:
        # The factor is sent through all the same: a hook of the loss may change what arrives.
        tripled = _gradients_of(twin, FACTORS[0])
        return FactorStudy(undecided=_undecided(case, tripled, _of(twin)))
    fault, why, refused = _on_one_graph(case)
    if fault is None and why is None:
        fault, why = _by_backward(case)
    return FactorStudy(fault, why, nodes, refused)


def _of(found: Evaluation) -> Gradients:
    return tuple(found.gradient(leaf).detach() for leaf in range(len(found.leaves)))


def _gradients_of(found: Evaluation, factor: float) -> Gradients:
    """The gradients of ``factor * loss``, and the graph for the next one."""
    assert found.value is not None
    upstream = factor * weights_like(found.value.detach())
    given: Sequence[Tensor | None] = torch.autograd.grad(
        found.value, found.leaves, upstream, allow_unused=True, retain_graph=True
    )
    return tuple(
        torch.zeros_like(leaf) if one is None else one.detach().clone()
        for leaf, one in zip(found.leaves, given, strict=True)
    )


def _undecided(
    case: Examination, scaled: Gradients, once: Gradients, factor: float = FACTORS[0]
) -> str | None:
    for name, one, other in zip(case.leaf_names, scaled, once, strict=True):
        if relative_error(one, factor * other) > EXACT:
            return (
                f"{factor:g} times the loss does not have {factor:g} times the gradient for "
                f"`{name}`, but no Function alone explains it"
            )
    return None


def _times(case: Examination, scaled: Sequence[Tensor], once: Sequence[Tensor]) -> dict[str, float]:
    """By how much the gradient of each leaf that has one grew."""
    return {
        name: float((one * other).sum() / (other * other).sum())
        for name, one, other in zip(case.leaf_names, scaled, once, strict=True)
        if bool((other != 0).any())
    }


def _wrong(case: Examination, scaled: Gradients, once: Gradients, factor: float) -> tuple[str, ...]:
    """The leaves whose gradient clearly is not multiplied by the factor."""
    finite = all(bool(torch.isfinite(one).all()) for one in (*scaled, *once))
    return tuple(
        name
        for name, one, other in zip(case.leaf_names, scaled, once, strict=True)
        if finite and relative_error(one, factor * other) > CLEAR
    )


# ---------------------------------------------------------------------- by `torch.autograd.grad`
Found = tuple[Misscaled | None, str | None]
NOTHING: Found = (None, None)


def _on_one_graph(case: Examination) -> tuple[Misscaled | None, str | None, bool]:
    """Several factors on one graph, and whether that refuses a second pass."""
    passes: list[Gradients] = []

    def go_backward(found: Evaluation) -> None:
        for factor in (1.0, *FACTORS, FACTORS[0]):
            passes.append(_gradients_of(found, factor))  # noqa: PERF401 - any may raise

    error = _performed(case, go_backward)
    if not passes:
        return None, f"the loss cannot be differentiated: {error}", False
    for factor, scaled in zip((*FACTORS, FACTORS[0]), passes[1:], strict=False):
        if _undecided(case, scaled, passes[0], factor) is not None:
            return *_explained(case, passes[0], scaled, factor), False
    if error is None:
        return *NOTHING, False
    return *_fresh(case, passes[0], FACTORS[0]), True


def _explained(case: Examination, once: Gradients, scaled: Gradients, factor: float) -> Found:
    """Whether the first pass with this factor is right, so that only the second one is wrong."""
    first = _fresh(case, once, factor)
    if first != NOTHING:
        return first
    wrong = _wrong(case, scaled, once, factor)
    if not wrong:
        return None, _undecided(case, scaled, once, factor)
    passes: list[Gradients] = []

    def twice(found: Evaluation) -> None:
        passes.extend(_gradients_of(found, FACTORS[0]) for _ in range(2))

    _performed(case, twice)
    times = _times(case, passes[-1], once)
    return Misscaled("repeated", FACTORS[0], times, wrong), None


def _fresh(case: Examination, once: Gradients, factor: float) -> Found:
    """One pass with a factor through a graph of its own."""
    passes: list[Gradients] = []
    error = _performed(case, lambda found: passes.append(_gradients_of(found, factor)))
    if not passes:
        return None, f"the loss cannot be differentiated: {error}"
    why = _undecided(case, passes[0], once, factor)
    if why is None:
        return NOTHING
    wrong = _wrong(case, passes[0], once, factor)
    if not wrong or has_hooks(case.twin):
        return None, why
    times = _times(case, passes[0], once)
    return Misscaled("disproportionate", factor, times, wrong), None


def _performed(case: Examination, then: Callable[[Evaluation], None]) -> Exception | None:
    """Call the loss in float64 and do something with its graph; the error where that is refused."""
    raised: list[Exception] = []

    def guarded(found: Evaluation) -> None:
        try:
            then(found)
        except Exception as error:  # the user's code may refuse a second pass, or `.backward`
            raised.append(error)

    found = case.evaluate(dtype=torch.float64, then=guarded)
    return raised[0] if raised else found.error


def has_hooks(found: Evaluation) -> bool:
    """Whether the loss gave a tensor a hook, which may make what it likes of the gradient."""
    if found.trace is None:
        return False
    results = [t for _, result in found.trace.results.values() for t in tensors_in(result)]
    return any(tensor._backward_hooks for tensor in (*results, *found.leaves))


# ---------------------------------------------------------------------- by `.backward()`
def _by_backward(case: Examination) -> Found:
    once, scaled = (_accumulated(case, factor) for factor in (1.0, LARGE))
    if once is None or scaled is None:
        return None, "`backward()` raises where `torch.autograd.grad` does not"
    wrong = _wrong(case, scaled, once, LARGE)
    if wrong and not has_hooks(case.twin):
        return Misscaled("disproportionate", LARGE, _times(case, scaled, once), wrong), None
    return None, _undecided(case, scaled, once, LARGE)


def _accumulated(case: Examination, factor: float) -> Gradients | None:
    """What a training step with this factor leaves in ``.grad``."""
    own = case.subject.state.parameters().values()
    # A loss that is in float64 already is given its own parameters, with what is in their `.grad`.
    earlier = [p.grad if p.dtype is torch.float64 else None for p in own]
    earlier = [None if one is None else one.detach().clone() for one in earlier]
    left: list[Gradients] = []

    def go_backward(found: Evaluation) -> None:
        assert found.value is not None
        if found.value.requires_grad:
            found.value.backward(factor * weights_like(found.value.detach()))  # type: ignore[no-untyped-call]
        inputs = len(found.leaves) - len(earlier)
        left.append(
            tuple(
                _grown(leaf, before)
                for leaf, before in zip(found.leaves, [None] * inputs + earlier, strict=True)
            )
        )

    error = _performed(case, go_backward)
    return None if error is not None or not left else left[0]


def _grown(leaf: Tensor, before: Tensor | None) -> Tensor:
    if leaf.grad is None:
        return torch.zeros_like(leaf)
    now = leaf.grad.detach().clone()
    return now if before is None else now - before


def _written(case: Examination) -> Misscaled:
    """The forward pass left a gradient in ``.grad``: does a factor reach it?"""
    names = tuple(case.leaf_names[leaf] for leaf in case.twin.written)
    once, scaled = (_accumulated(case, factor) for factor in (1.0, LARGE))
    times = {} if once is None or scaled is None else _times(case, scaled, once)
    return Misscaled("written", LARGE, times, names, _place_of_writing(case))


def _place_of_writing(case: Examination) -> Location | None:
    with _Writers(case.subject.sources) as writers:
        case.evaluate(backward=False)
    return next(writers.places(), None)


class _Writers(TorchFunctionMode):
    """Notes where ``backward()`` is called or a ``.grad`` assigned."""

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self.sources = sources
        self.sites: list[Site] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if operation_name(func) in ("backward", "grad="):
            self.sites.append(self.sources.site())
        return func(*args, **(kwargs or {}))

    def places(self) -> Iterator[Location]:
        """The places in the user's code."""
        for site in self.sites:
            if site.location is not None:
                yield site.location


def finite_ratio(number: float) -> str:
    """A factor for people: short, and whole where it is whole.

    Example:
        >>> finite_ratio(65536.0), finite_ratio(1.0000000001), finite_ratio(float("nan"))
        ('65536', '1', 'nan')
    """
    return f"{number:.6g}" if math.isfinite(number) else str(number)
