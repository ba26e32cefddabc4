"""How a step fills ``.grad``: with gradients that are known, by plain backward passes, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lossproof.terms.balance.looking import Found, refuse_unreached
from lossproof.terms.balance.options import StepOptions
from lossproof.terms.balance.passes import Pass, objective, stacked, weighted_sum
from lossproof.terms.distributed import norm_over_ranks, tell_of_idle
from lossproof.terms.filling import fill, norm_of, shrinking
from lossproof.terms.gradients import TermGradients
from lossproof.terms.graph import read_graph
from lossproof.terms.scaling import scale_terms
from lossproof.terms.sharded import shard_of, shards, whole
from lossproof.write.sharding import is_sharded

if TYPE_CHECKING:
    from lossproof.terms.balance.base import Balancer

Tensor = torch.Tensor


def clip_long_terms(found: Found, limits: Mapping[str, float] | None) -> Tensor:
    """Shrink the gradients of the terms to these norms, in all that is known of them.

    Returns:
        What each was multiplied by.
    """
    figures = found.figures
    if limits is None or figures is None:
        return torch.ones_like(found.terms.values)
    norms = _norms(figures)
    limit = norms.new_tensor([limits[name] for name in figures.names])
    factors = torch.where(limit.isinf(), 1.0, shrinking(norms, limit))
    scale_terms(figures, factors)
    return factors


def fill_step(
    balancer: Balancer,
    found: Found,
    factors: Tensor,
    own: Sequence[Tensor],
    options: StepOptions,
    *,
    fresh: bool,
) -> Tensor | None:
    """Add to ``.grad`` what the step makes of the gradients.

    Args:
        balancer: with the weights of this step.
        found: what is known of the step.
        factors: what the gradient of each term was multiplied by to clip it.
        own: the parameters of the balancer itself.
        options: the options of the step.
        fresh: whether the weights were computed anew.

    Returns:
        The norm of what is added, before it was clipped, where it was to be.
    """
    weights, figures, limit = balancer.weights, found.figures, options.clip
    scaled_by = options.filling_scale(weights)
    scale = weights.new_ones(()) if scaled_by is None else scaled_by
    known: Mapping[str, Tensor] = {}
    norm, done = None, False
    if figures is not None and balancer.combines and fresh:
        known, done = balancer.gradients_of(figures, weights), True
        if scaled_by is not None:
            known = {name: part * scale.to(part) for name, part in known.items()}
    elif figures is not None and found.complete:
        if limit is not None and not own:
            norm = _norm_of_sum(figures, weights)
        if norm is not None and limit is not None:
            scale, limit = scale * shrinking(norm, limit), None
        known, done = figures.combined(weights * scale), True
    parameters, gradients = _used(found, known)
    with torch.enable_grad():  # backward() works where it is off, too
        passes = _passes(balancer, found, factors, scale, own, done=done)
    retained = [options.retain_graph or one is not passes[-1] for one in passes]
    if limit is None:
        for one, retain_graph in zip(passes, retained, strict=True):
            one.backward(retain_graph)
        fill(parameters, gradients)
        _tell_of_idle(
            found, [*parameters, *(tensor for one in passes for tensor in one.inputs or ())]
        )
        _refuse_nothing_filled(found)
        return norm
    for one, retain_graph in zip(passes, retained, strict=True):
        parameters = [*parameters, *(one.inputs or ())]
        gradients = [*gradients, *one.gradients_of_inputs(retain_graph)]
    scaled = norm_over_ranks(norm_of([_measure_of(part) for part in gradients]), options.ranks)
    factor = shrinking(scaled, (limit * scale).to(scaled))
    fill(parameters, [None if part is None else part * factor.to(part) for part in gradients])
    pairs = zip(parameters, gradients, strict=True)
    _tell_of_idle(found, [tensor for tensor, part in pairs if part is not None])
    return scaled / scale.to(scaled)


def _tell_of_idle(found: Found, served: Sequence[Tensor]) -> None:
    if found.goal.filled is not None:
        done = {id(tensor) for tensor in served}
        everyone = [*found.goal.filled.tensors, *found.goal.plain.tensors]
        tell_of_idle(found.terms.tensors, [tensor for tensor in everyone if id(tensor) not in done])


def _refuse_nothing_filled(found: Found) -> None:
    """Raise where all of the parameters were chosen in vain.

    The graph is looked at only where no ``.grad`` is left, which an optimizer that steps within the
    backward pass may have taken away.
    """
    if found.goal.filled is None or found.terms.absent:
        return
    chosen = [*found.goal.filled.tensors, *found.goal.plain.tensors]
    if any(is_sharded(tensor) for tensor in chosen):
        return  # their gradients may be held back until all ranks add them up
    if all(tensor.grad is None for tensor in chosen):
        graph = read_graph(found.terms.tensors)
        if not any(graph.mask_of(tensor) for tensor in chosen):
            refuse_unreached(found.terms)


def _used(
    found: Found, known: Mapping[str, Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
    """The measured parameters that are filled, with their gradients if a term depends on them."""
    if not known or found.figures is None or found.goal.measured is None:
        return (), ()
    wanted = {id(tensor) for tensor in (found.goal.filled or found.goal.measured).tensors}
    unused = set(found.figures.unused)
    pairs = [
        (tensor, whole(known[name], tensor))
        for name, tensor in zip(found.goal.measured.names, found.goal.measured.tensors, strict=True)
        if name in known and name not in unused and id(tensor) in wanted
    ]
    return [tensor for tensor, _ in pairs], [gradient for _, gradient in pairs]


def _passes(
    balancer: Balancer,
    found: Found,
    factors: Tensor,
    scale: Tensor,
    own: Sequence[Tensor],
    *,
    done: bool,
) -> list[Pass]:
    """The passes to all parameters that are to be filled; the measured ones may be done already."""
    terms, goal = found.terms, found.goal
    found_passes = []
    inputs: Sequence[Tensor] | None = None
    if goal.filled is not None:
        measured = goal.measured.tensors if done and goal.measured is not None else ()
        finished = {id(tensor) for tensor in measured}
        inputs = [tensor for tensor in goal.filled.tensors if id(tensor) not in finished]

    def minimised(values: Tensor) -> Tensor:
        return balancer.objective(values, balancer.weights)

    if inputs is None or inputs:
        if balancer.linear:
            found_passes.append(weighted_sum(terms, balancer.weights * factors * scale, inputs))
        else:
            everything = None if inputs is None else [*inputs, *own]
            found_passes.append(objective(stacked(terms), minimised, factors, scale, everything))
    elif own:
        found_passes.append(objective(terms.values, minimised, factors, scale, own))
    if goal.plain.tensors:
        found_passes.append(weighted_sum(terms, factors * scale, goal.plain.tensors))
    return found_passes


def _measure_of(gradient: Tensor | None) -> Tensor | None:
    """A gradient whose mean square norm over the ranks is that of the whole."""
    if gradient is None or not is_sharded(gradient):
        return gradient
    return shard_of(gradient) * math.sqrt(shards(gradient))


def _norms(figures: TermGradients) -> Tensor:
    if "norm" in figures.known:
        return figures.vector("norm")
    return figures.gramian.diagonal().clamp_min(0.0).sqrt()


def _norm_of_sum(figures: TermGradients, weights: Tensor) -> Tensor | None:
    """The norm of the weighted sum from the Gramian, where it is known and tells it exactly.

    Where the terms all but cancel, their inner products say little about what is left.
    """
    if "gramian" not in figures.known:
        return None
    square = weights @ figures.gramian @ weights
    longest = (weights * _norms(figures)).abs().amax().square()
    return square.sqrt() if bool(square > 1e-3 * longest) else None
