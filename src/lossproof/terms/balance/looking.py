"""What a step must know before it weighs the terms: which are finite, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch

from lossproof.errors import NonFiniteTermError
from lossproof.terms.balance.entering import Intention
from lossproof.terms.balance.options import Nonfinite, StepOptions
from lossproof.terms.distributed import numbers_of, synchronised
from lossproof.terms.gradients import TermGradients, Want, computed
from lossproof.terms.parameters import Parameters
from lossproof.terms.targets import Targets, targets
from lossproof.terms.terms import Terms
from lossproof.write.hooks import hooks_held_back
from lossproof.write.sharding import is_sharded

if TYPE_CHECKING:
    from lossproof.terms.balance.base import Balancer

Tensor = torch.Tensor


@dataclass(frozen=True)
class Found:
    """What is known of a step.

    Attributes:
        terms: the terms that take part: present, and not dropped.
        goal: its parameters.
        figures: the figures of the gradients, where they were measured.
        complete: whether the figures hold all that fills ``.grad``.
        overflowed: whether a gradient overflowed under the scale of a ``GradScaler``.
    """

    terms: Terms
    goal: Targets
    figures: TermGradients | None = None
    complete: bool = False
    overflowed: bool = False


def look(balancer: Balancer, named: Terms, options: StepOptions, due: bool) -> Found:
    """Find out what the balancer must know in this step."""
    measuring = is_measuring(balancer, options, due)
    terms = named
    if options.nonfinite == "drop" or (options.nonfinite == "raise" and not measuring):
        terms = without(terms, infinite(terms), options.nonfinite)
    while True:
        goal = _goal(terms, options, measuring)
        if goal.measured is None:
            return Found(terms, goal)
        figures = _measure_together(balancer, terms, goal, goal.measured, options, due)
        unused = len(figures.unused) == len(figures.parameters)
        if unused and not terms.absent:
            refuse_unreached(terms, "params" if options.on is None else "on")
        wrong = () if options.nonfinite == "ignore" else figures.nonfinite
        if wrong and options.scale is not None:
            wrong = infinite(terms)
            if not wrong:
                return Found(terms, goal, figures, _complete(balancer, goal, due), overflowed=True)
        if not wrong:
            return Found(terms, goal, figures, _complete(balancer, goal, due))
        terms = without(terms, wrong, options.nonfinite)


def refuse_unreached(terms: Terms, what: str = "params") -> NoReturn:
    """Raise where no term depends on what is filled, or measured: there is nothing to balance."""
    raise ValueError(f"none of the terms {list(terms.names)} depends on any of the `{what}`")


def intention(balancer: Balancer, named: Terms, options: StepOptions, due: bool) -> Intention:
    """What this rank is about to do in a step, from its own terms."""
    if options.ranks is None or not is_measuring(balancer, options, due):
        return Intention()
    if options.params is None:
        raise ValueError(
            "`params` must be given where several ranks measure gradients: what the terms depend "
            "on may differ from rank to rank"
        )
    over = _goal(named, options, measuring=True).measured
    if over is None:
        return Intention()
    numbers = numbers_of(len(balancer.names or ()), len(over), _wanted(balancer, options, due))
    return Intention(
        numbers,
        tuple(tuple(tensor.shape) for tensor in over.tensors),
        any(is_sharded(tensor) for tensor in over.tensors),
    )


def infinite(terms: Terms) -> tuple[str, ...]:
    """The terms whose value is not finite."""
    values = terms.values.tolist()
    return tuple(
        name for name, value in zip(terms.names, values, strict=True) if not math.isfinite(value)
    )


def without(terms: Terms, wrong: Sequence[str], nonfinite: Nonfinite) -> Terms:
    """The terms without those that are not finite, if these may be dropped.

    Raises:
        NonFiniteTermError: they may not, or no term would be left.
    """
    if not wrong:
        return terms
    rest = [name for name in terms.names if name not in wrong]
    if nonfinite == "raise" or not rest:
        values = dict(zip(terms.names, terms.values.tolist(), strict=True))
        which = ", ".join(f"{name!r} (value {values[name]:g})" for name in wrong)
        raise NonFiniteTermError(
            f"not finite, in their value or in their gradient, are the terms {which}", tuple(wrong)
        )
    return terms.among(rest)


def _goal(terms: Terms, options: StepOptions, measuring: bool) -> Targets:
    if not any(term.requires_grad for term in terms.tensors):
        raise ValueError(
            f"none of the terms {list(terms.names)} depends on a tensor that requires a gradient"
        )
    return targets(
        terms,
        options.params,
        options.on,
        options.exclusive,
        measuring=measuring,
        listed=options.clip is not None,
    )


def is_measuring(balancer: Balancer, options: StepOptions, due: bool) -> bool:
    """Whether gradients of single terms are computed in this step."""
    return (due and bool(balancer.needs)) or options.limits is not None


def _complete(balancer: Balancer, goal: Targets, due: bool) -> bool:
    """Whether the measured gradients say all that fills ``.grad``."""
    return goal.everything_measured and (balancer.linear or (due and bool(balancer.needs)))


def _wanted(balancer: Balancer, options: StepOptions, due: bool) -> list[Want]:
    want = list(balancer.needs) if due else []
    if not {"norm", "gramian"} & set(want) and (
        options.limits is not None or want == ["gradients"]
    ):
        want.append("norm")
    return want


def _measure_together(
    balancer: Balancer,
    terms: Terms,
    goal: Targets,
    over: Parameters,
    options: StepOptions,
    due: bool,
) -> TermGradients:
    """The figures over all ranks."""
    ranks = options.ranks
    if ranks is None:
        return _measure(balancer, terms, goal, over, options, due)
    count = numbers_of(len(terms), len(over), _wanted(balancer, options, due))
    with ranks.announcing(count, terms.values.device):
        figures = _measure(balancer, terms, goal, over, options, due)
    return synchronised(figures, ranks)


def _measure(
    balancer: Balancer,
    terms: Terms,
    goal: Targets,
    over: Parameters,
    options: StepOptions,
    due: bool,
) -> TermGradients:
    complete = _complete(balancer, goal, due)
    own_look = due and not balancer.needs  # a method may differentiate by itself
    again = options.retain_graph or options.nonfinite == "drop" or own_look or not complete
    with hooks_held_back(over.tensors):
        return computed(
            terms,
            over,
            _wanted(balancer, options, due),
            hold=complete or (balancer.combines and due),
            retain_graph=again,
            scale=options.scale,
        )
