"""Second derivatives of reductions over all pairs, a block of pairs at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossproof.speed.gate import Gate
from lossproof.speed.pair_function import Pieces, pieces
from lossproof.speed.pair_gradient import Gradient, Part, add, gradients_of, zeros
from lossproof.write.hooks import hooks_held_back

Tensor = torch.Tensor


def second(
    gradient: Gradient,
    given: Sequence[Tensor],
    upstream: Sequence[Tensor],
    wanted: Sequence[int],
) -> Sequence[Tensor | None]:
    """The gradient of the inner product of ``upstream`` and the gradient, in what was given."""
    heads = 2 * len(gradient.asked)
    tensors = given[heads:]
    direction = dict(zip(gradient.wanted, upstream, strict=True))
    leaves = sorted({*gradient.wanted, *(i - heads for i in wanted if i >= heads)})
    totals = {i: zeros(given[i]) for i in wanted}
    of_tensors = {i - heads: total for i, total in totals.items()}
    with gradient.again(given):
        for part in gradient.parts():
            with torch.enable_grad():
                local = [one.detach().requires_grad_() for one in given[:heads]]
                arguments = pieces(gradient.sweep.call, tensors, *part.block, leaves)
                product = _inner_product(part, arguments, local, direction)
            if product is None:
                continue
            slopes = gradients_of(product, local + arguments.wanted)
            for i, slope in enumerate(slopes[:heads]):
                if slope is not None and i in totals:
                    totals[i] += slope
            add(of_tensors, arguments, slopes[heads:])
    return [totals[i].to(given[i].dtype) for i in wanted]


def second_at_once(
    gradient: Gradient,
    given: Sequence[Tensor],
    upstream: Sequence[Tensor],
    wanted: Sequence[int],
) -> Sequence[Tensor | None]:
    """The same where it is to be differentiated itself, or asked of many ``upstream`` at a time.

    All blocks are kept for that.
    """
    gate, heads = Gate(), 2 * len(gradient.asked)
    own = {heads + place for place in gradient.sweep.call.places}
    given = gate.before(given, {*range(heads), *own})
    with torch.enable_grad(), gate.closed():
        found = gradient(given, attached=True)
    connected = [k for k, one in enumerate(found) if one.requires_grad]
    if not connected:
        return [None] * len(wanted)
    with gate.closed(), hooks_held_back(gradient.captured(given)):
        return torch.autograd.grad(
            [found[k] for k in connected],
            [given[i] for i in wanted],
            [upstream[k] for k in connected],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )


def _inner_product(
    part: Part, arguments: Pieces, heads: Sequence[Tensor], direction: dict[int, Tensor]
) -> Tensor | None:
    """What a block adds to the inner product of the direction and the gradient."""
    values = part.values(arguments)
    first = [leaf for leaf in arguments.leaves if leaf[0] in direction]
    if not values.requires_grad:
        return None
    slope = part.slope(values, heads)
    slopes = gradients_of(values, [tensor for _, _, tensor in first], slope, create=True)
    terms = [
        (slope * (direction[place] if index is None else direction[place][index])).sum()
        for (place, index, _), slope in zip(first, slopes, strict=True)
        if slope is not None
    ]
    if not terms:
        return None
    product = torch.stack(terms).sum()
    return product if product.requires_grad else None
