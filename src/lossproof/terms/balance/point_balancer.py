"""What the methods share that weigh every point of a residual, and not only every term."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.points import Points
from lossproof.terms.balance.presence import Axes
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.gradients import TermGradients
from lossproof.terms.parameters import chosen_parameters

Tensor = torch.Tensor
Scalars = dict[str, Tensor | None]
State = dict[str, Tensor]


class PointBalancer(Balancer, ABC):
    """Makes scalar terms of residuals that are given point by point.

    Called with residuals it returns scalar terms, which any balancer takes;
    ``backward(residuals, params)`` minimises their plain sum. Its state follows at each call in
    training mode, and stays where it is in evaluation mode, inside ``held()``, with
    ``refresh=False`` and where a step fails. In data-parallel training every rank weighs its own
    points, and keeps what it knows of them to itself.

    Args:
        names: the names of the terms, in their order.
    """

    of_this_rank: ClassVar[tuple[str, ...]] = (
        "attention",
        "stage",
        "steps_in_stage",
        "finished",
        "_extra_state",
    )
    points: Points | None = None
    """How many points there are, for methods that keep a number for each."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        super().__init__(names)
        self._where: Any = None
        self._next: State = {}

    @abstractmethod
    def weigh(self, residuals: Mapping[str, Any], where: Any) -> tuple[Scalars, State]:
        """The scalar terms, and the buffers as this step would leave them.

        Args:
            residuals: what the user gave.
            where: which points these are, as the method wants to know it.
        """

    @abstractmethod
    def without(self, state: State, dropped: Sequence[str]) -> State:
        """The buffers as a step leaves them in which some terms were dropped."""

    def forward(  # type: ignore[override]  # it goes before a balancer, or stands for one
        self, residuals: Mapping[str, Any], *, index: Any = None
    ) -> Scalars:
        """The scalar terms.

        Args:
            residuals: for each term its residual at every point, a tensor of shape (N,), or
                (N, ...) for several equations. Scalars pass as they are, and so does ``None``.
            index: which points these are, where they are a sample of all: a tensor of N integers
                for each term that is weighted by point, by name; or the tensor alone, if there is
                one such term. Without it all points in their order.
        """
        scalars, state = self.weigh(residuals, index)
        if self.training and not self._holding:
            self._keep(state)
        return scalars

    def backward(
        self, terms: Mapping[str, Any], params: Any = None, *, index: Any = None, **options: Any
    ) -> BalanceStep:
        """Add the gradient of the sum of the weighted terms to ``.grad``.

        Args:
            terms: the residuals, as for a call.
            params: what is filled, as for every balancer; the balancer's own parameters always are.
            index: as for a call.
            **options: as for every balancer.
        """
        own = list(self.named_parameters())
        if own and params is not None:
            chosen = chosen_parameters(params)
            params = [*zip(chosen.names, chosen.tensors, strict=True), *own]
        self._where = index
        try:
            step = super().backward(terms, params, **options)
            if step.refreshed and self.training:
                self._keep(self.without(self._next, step.dropped))
        finally:
            self._where, self._next = None, {}
        return step

    def scalars(self, terms: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        scalars, self._next = self.weigh(terms, self._where)
        return scalars

    def weights_of(self, figures: TermGradients) -> Tensor:
        return torch.ones_like(figures.values)

    def axes_of_state(self) -> Axes:
        return {"weights": (0,)}  # all else has entries for points, not for terms

    def get_extra_state(self) -> dict[str, Any]:
        counts = self.points.counts if self.points else {}
        return {**super().get_extra_state(), "points": dict(counts)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        here = list(self.points.counts.items()) if self.points else []
        if list(state["points"].items()) != here:
            raise ValueError(
                f"the checkpoint is of the points {state['points']}, this balancer of {dict(here)}"
            )
        super().set_extra_state(state)

    def _keep(self, state: State) -> None:
        for name, tensor in state.items():
            setattr(self, name, tensor)
