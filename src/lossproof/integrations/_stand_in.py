"""A loss that a trainer may scale, divide and send backward, in place of the terms it stands for.

Trainers take one scalar and multiply it: by the scale of a ``GradScaler``, by 1/n under gradient
accumulation, by the number of processes. A balancer fills the gradients itself, so it must know
that factor. It is the derivative of what the trainer sends backward by what it was given: no rule
of any trainer is repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.point_balancer import PointBalancer
from lossproof.terms.balance.residuals import unweighted

Tensor = torch.Tensor


class _Guarded(torch.autograd.Function):
    """The identity, through which no gradient may pass: the balancer fills the gradients."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, *learned: Tensor) -> Tensor:
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            "the terms went backward past the balancer: what `balance` returned may only be "
            "returned from training_step, and BalancedTerms must come before LightningModule "
            "among the bases of the class"
        )


def plain_sum(terms: Mapping[str, Any], balancer: Balancer) -> Tensor:
    """The sum of the terms, each without a weight.

    Of a term given by samples it takes the mean; of the residuals at points, which a
    :class:`PointBalancer` takes, the mean of their squares.

    Raises:
        TypeError: ``terms`` is no mapping of names to tensors.
        ValueError: no term is present.
    """
    if not isinstance(terms, Mapping):
        raise TypeError(f"`terms` must map names to tensors, got {type(terms).__name__}")
    compared = squared(terms, balancer)
    means = [mean for name, term in compared.items() for mean in _means(name, term)]
    if not means:
        raise ValueError("`terms` must hold a term that is not None")
    total = means[0]
    for mean in means[1:]:
        total = total + mean
    return total


def squared(terms: Mapping[str, Any], balancer: Balancer) -> Mapping[str, Any]:
    """The terms, and in place of residuals at points the mean of their squares."""
    if not isinstance(balancer, PointBalancer):
        return terms
    return {name: unweighted(name, term) for name, term in terms.items()}


def _means(name: str, term: Any) -> Iterator[Tensor]:
    if term is None:
        return
    if isinstance(term, Tensor):
        yield term.mean() if term.ndim else term
    elif isinstance(term, Sequence) and term and all(isinstance(one, Tensor) for one in term):
        yield torch.stack([one.mean() for one in term]).mean()
    else:
        raise TypeError(f"the term {name!r} must be a tensor, got {type(term).__name__}")


def guarded(terms: Mapping[str, Any], balancer: Balancer) -> Tensor:
    """The plain sum, with the graph of all that gets a gradient.

    ``DistributedDataParallel`` searches it for the parameters that it waits for.
    """
    learned = [parameter for parameter in balancer.parameters() if parameter.requires_grad]
    total: Tensor = _Guarded.apply(plain_sum(terms, balancer), *learned)  # type: ignore[no-untyped-call]
    return total


def leaf(terms: Mapping[str, Any], balancer: Balancer) -> Tensor:
    """The plain sum as a leaf: when it went backward, its ``.grad`` is the factor."""
    return plain_sum(terms, balancer).detach().requires_grad_()


def factor_between(loss: Tensor, stand_in: Tensor) -> Tensor:
    """What the stand-in was multiplied by until it became the loss.

    Raises:
        ValueError: the loss is made of something else, or of more than the stand-in.
    """
    if loss.grad_fn is None or not _only_through(loss, stand_in):
        raise ValueError(
            "the loss must be what `balance` returned, perhaps times a number: give what you added "
            "to it, such as a penalty, as another term"
        )
    (factor,) = torch.autograd.grad(loss, stand_in)
    return factor


def _only_through(loss: Tensor, stand_in: Tensor) -> bool:
    """Whether all that the loss depends on lies behind the stand-in."""
    waiting, found = [loss.grad_fn], False
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is stand_in.grad_fn:
            found = True
            continue
        if hasattr(node, "variable"):
            return False
        for child, _ in getattr(node, "next_functions", ()):
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return found


def without_scale(factor: Tensor | None, scaler: Any) -> Tensor:
    """The part of the factor that is not the scale of the ``GradScaler``.

    Both parts are given to the balancer: it looks for gradients that overflow under the scale.

    Raises:
        RuntimeError: there is no factor: what should have sent the stand-in backward did not.
    """
    if factor is None:
        raise RuntimeError("the loss of the terms was not sent backward in this step")
    factor = factor.detach().float()
    if scaler is None or not scaler.is_enabled():
        return factor
    scale: Tensor = scaler.scale(torch.ones((), device=factor.device))
    return factor / scale
