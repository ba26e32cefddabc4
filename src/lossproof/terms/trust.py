"""A shortcut is tried against a plain pass the first time a graph of its structure is met.

Autograd's graph does not show everything: a hook on an activation may do to a gradient what it
likes, and a later release of torch may call a node by an old name. So the first time a structure
is met, the gradient of a weighted sum of the terms is computed plainly, too, and a shortcut that
differs is not taken for that structure again. Now and then it is tried once more.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch

from lossproof.terms.graph import Graph
from lossproof.terms.held import Group, total_products
from lossproof.terms.parameters import Parameters

Tensor = torch.Tensor

_MOST = 256
"""How many structures are remembered."""


@dataclass
class _Verdict:
    """Whether a shortcut is right, and how often it was asked for."""

    right: bool
    uses: int = 0


_verdicts: OrderedDict[Hashable, _Verdict] = OrderedDict()


def structure_of(graph: Graph, parameters: Parameters, way: str) -> Hashable:
    """What identifies a graph of the same model, and the way that was planned for it."""
    nodes = tuple((node.name(), graph.masks[node]) for node in graph.order)
    own = tuple((id(tensor), tensor.shape) for tensor in parameters.tensors)
    return hash(nodes), own, way  # another model that looks the same may have other hooks


def verdict_on(structure: Hashable) -> bool | None:
    """Whether the shortcut was right on this structure; ``None`` where it is to be tried.

    It is tried again at the 10th use, the 100th, and every 1000th: a hook may have been added since
    then, or may act on some gradients only.
    """
    known = _verdicts.get(structure)
    if known is None:
        return None
    known.uses += 1
    again = known.uses in (10, 100) or known.uses % 1000 == 0
    return None if known.right and again else known.right


def remember(structure: Hashable, verdict: bool) -> None:
    """Keep a verdict, and forget the oldest beyond those that are remembered."""
    known = _verdicts.setdefault(structure, _Verdict(verdict))
    if known.right and not verdict:
        warnings.warn(
            "the gradients of single terms differed from a plain backward pass, as where a hook "
            "was added to an activation after the first steps; from now on they are computed one "
            "by one, but some steps before this one may have been wrong",
            stacklevel=2,
        )
    known.right = verdict
    while len(_verdicts) > _MOST:
        _verdicts.popitem(last=False)


def telling_weights(groups: Sequence[Group], count: int, device: torch.device) -> Tensor:
    """Weights under which each term's gradient is about as long as any other, and not the same."""
    norms = total_products(groups, count, device).diagonal().clamp_min(0.0).sqrt()
    largest = torch.where(norms.isfinite(), norms, 0.0).amax()
    usable = norms.isfinite() & (norms > 0)
    lengths = torch.where(usable, norms, torch.where(largest > 0, largest, 1.0))
    spread = torch.arange(1, count + 1, device=device).to(norms.dtype) * _GOLDEN
    return (0.5 + spread.frac()) / lengths


_GOLDEN = 0.6180339887498949
"""Its multiples are spread over the numbers from 0 to 1 as evenly as can be."""


def plain_gradient(
    terms: Sequence[tuple[Tensor, float]], parameters: Parameters, start: Tensor
) -> Sequence[Tensor | None]:
    """The gradient of a weighted sum by an ordinary pass; the graph can be used again."""
    return torch.autograd.grad(
        [term for term, _ in terms],
        parameters.tensors,
        grad_outputs=[
            (weight * start).to(term.dtype).reshape(term.shape) for term, weight in terms
        ],
        retain_graph=True,
        allow_unused=True,
    )


def agrees(
    groups: Sequence[Group],
    weights: Tensor,
    plain: Sequence[Tensor | None],
    positions: Collection[int],
) -> bool | None:
    """Whether the gradient of the weighted sum is the plain one, up to rounding.

    Args:
        groups: the gradients as the shortcut gave them.
        weights: of the terms.
        plain: for each parameter the plain gradient.
        positions: the parameters that are compared. A gradient that is zero but for rounding (of a
            bias before a batch norm) is never the same twice: what was not cut short is not asked.

    Returns:
        ``None`` where it shows nothing, because it is zero or not finite.
    """
    found: dict[int, Tensor | None] = {}
    for group in groups:
        found.update(zip(group.positions, group.combined(weights), strict=True))
    telling = False
    for position in positions:
        same = _same(plain[position], found.get(position))
        if same is False:
            return False
        telling = telling or bool(same)
    return True if telling else None


def _same(wanted: Tensor | None, given: Tensor | None) -> bool | None:
    """Whether two gradients agree; ``None`` where both are zero or the first is not finite."""
    if wanted is None or given is None:
        there = given if wanted is None else wanted
        return None if there is None or not bool(there.any()) else False
    wanted = wanted.to_dense() if wanted.is_sparse else wanted
    given = given.to_dense() if given.is_sparse else given
    largest = wanted.abs().amax() if wanted.numel() else wanted.new_zeros(())
    if not bool(torch.isfinite(largest)):
        return None
    if bool((given - wanted).abs().gt(_ROUNDING[largest.dtype] * largest).any()):
        return False
    return True if bool(largest > 0) else None


_ROUNDING = {
    torch.float64: 1e-9,
    torch.float32: 1e-3,
    torch.bfloat16: 1e-1,
    torch.float16: 3e-2,
}
"""The difference of two ways to add up the same numbers, relative to the largest entry."""
