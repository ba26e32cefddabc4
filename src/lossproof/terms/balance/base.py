"""What every balancer shares: the backward pass, the names of the terms, and the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.gradients import TermGradients, Want, computed
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.terms import Terms, named_terms, solving_dtype
from lossproof.write.arguments import integer

Tensor = torch.Tensor


class Balancer(nn.Module):
    """The base of the balancers. ``balancer.backward(terms, params)`` replaces ``loss.backward()``.

    A balancer says in ``needs`` what it wants to know of the gradients of the terms, and computes
    the weights of the terms from it in ``weights_of``. The base computes what is needed in the
    cheapest way, fills ``.grad`` with the gradient of the weighted sum, and keeps the state.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step (or from the checkpoint that is loaded).
        every: the weights are computed anew in every n-th step, and held in between, where a step
            costs one plain backward pass.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    """What must be known of the gradients; nothing, where the values of the terms are enough."""

    weights: Tensor
    """The weights of the last step, K numbers (a buffer; empty before the names are known)."""

    def __init__(self, names: Sequence[str] | None = None, *, every: int = 1) -> None:
        super().__init__()
        self.every = integer("every", every, minimum=1)
        self.names: tuple[str, ...] | None = None
        self.steps = 0
        if names is not None:
            self._bind(tuple(names))

    # ---- what a method defines

    def initial_state(self, count: int) -> dict[str, Tensor]:
        """The buffers that the method keeps for K terms, at their first values."""
        return {}

    def weights_of(self, figures: TermGradients) -> Tensor:
        """The weights of the terms, K numbers of ``figures.values``'s dtype and device.

        It is called without gradient tracking, at every refresh, and may change the state.
        """
        raise NotImplementedError

    def objective(self, values: Tensor, weights: Tensor) -> Tensor:
        """What is minimised, from the K values (with their graph) and the weights."""
        return (weights.to(values) * values).sum()

    def gradients_of(self, figures: TermGradients, weights: Tensor) -> dict[str, Tensor]:
        """What fills ``.grad``, by parameter name: the gradient of the weighted sum."""
        return figures.combined(weights)

    def scalars(self, terms: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        """The scalar terms that are balanced, from what the user gave."""
        return terms

    # ---- what the user calls

    def backward(
        self,
        terms: Mapping[str, Any],
        params: Any,
        *,
        refresh: bool | None = None,
        retain_graph: bool = False,
    ) -> BalanceStep:
        named = self._expected(named_terms(self.scalars(terms)))
        due = self.steps % self.every == 0 if refresh is None else refresh
        self.steps += 1
        parameters = chosen_parameters(params)
        if not self.needs or not due:
            return self._plain(named, parameters.tensors, due, retain_graph)
        figures = computed(named, parameters, self.needs, hold=True, retain_graph=retain_graph)
        with torch.no_grad():
            self.weights = self.weights_of(figures).detach()
            found = self.gradients_of(figures, self.weights)
            for name, parameter in zip(parameters.names, parameters.tensors, strict=True):
                if name in found:
                    before = parameter.grad
                    parameter.grad = found[name] if before is None else before + found[name]
        total = (self.weights * figures.values).sum()
        return BalanceStep(named.names, figures.values, self.weights, total, figures, True)

    def forward(self, terms: Mapping[str, Any]) -> Tensor:
        """What is minimised, for the methods that need the values alone."""
        if self.needs:
            raise TypeError(
                f"{type(self).__name__} needs the gradients of the terms: call "
                "balancer.backward(terms, params) in place of loss.backward()"
            )
        named = self._expected(named_terms(self.scalars(terms)))
        due = self.steps % self.every == 0
        self.steps += 1
        return self._objective(named, due)

    # ---- inside

    def _plain(
        self, named: Terms, parameters: Sequence[Tensor], due: bool, retain_graph: bool
    ) -> BalanceStep:
        total = self._objective(named, due)
        own = [parameter for parameter in self.parameters() if parameter.requires_grad]
        torch.autograd.backward([total], inputs=[*parameters, *own], retain_graph=retain_graph)
        return BalanceStep(named.names, named.values, self.weights, total.detach(), None, due)

    def _objective(self, named: Terms, due: bool) -> Tensor:
        if due and not self.needs:
            with torch.no_grad():
                self.weights = self.weights_of(_values_only(named)).detach()
        values = torch.stack([term.to(named.values.dtype) for term in named.tensors])
        return self.objective(values, self.weights)

    def _expected(self, named: Terms) -> Terms:
        if self.names is None:
            self._bind(named.names, named.tensors[0].device)
        if named.names != self.names:
            raise ValueError(
                f"the terms of this balancer are {list(self.names or ())}, got {list(named.names)}"
            )
        return named

    def _bind(self, names: tuple[str, ...], device: torch.device | None = None) -> None:
        """Fix the names of the terms, and make the state for them."""
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"`names` must be different names of terms, got {list(names)}")
        self.names = names
        place = device or torch.device("cpu")
        dtype = solving_dtype(place)
        self.register_buffer("weights", torch.ones(len(names), dtype=dtype, device=place))
        for name, first in self.initial_state(len(names)).items():
            self.register_buffer(name, first.to(place))

    def get_extra_state(self) -> dict[str, Any]:
        return {"names": list(self.names) if self.names else None, "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        extra = state_dict.get(prefix + "_extra_state")
        if extra and extra["names"] and self.names is None:
            self._bind(tuple(extra["names"]), state_dict[prefix + "weights"].device)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _values_only(named: Terms) -> TermGradients:
    from lossproof.terms.parameters import Parameters
    from lossproof.terms.statistics import StatisticsTable

    empty = StatisticsTable((), (), len(named), named.tensors[0].device)
    return TermGradients(named, Parameters((), ()), empty, None, (), [[]] * len(named))
