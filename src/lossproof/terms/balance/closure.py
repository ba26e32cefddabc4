"""The closure that optimisers such as LBFGS call again and again within one step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from lossproof.terms.parameters import reusable

if TYPE_CHECKING:
    from lossproof.terms.balance.base import Balancer

Tensor = torch.Tensor


class Closure:
    """Evaluates the terms and fills ``.grad``; new weights only at the first call in a step.

    A line search compares values of one function. Were the weights to change within it, it would
    compare values of different ones.
    """

    def __init__(
        self,
        balancer: Balancer,
        compute_terms: Callable[[], Mapping[str, Any]],
        optimizer: torch.optim.Optimizer,
        params: Any,
        options: Mapping[str, Any],
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}"
            )
        if not callable(compute_terms):
            raise TypeError(
                "`compute_terms` must be a function that returns the terms, got "
                f"{type(compute_terms).__name__}"
            )
        self._balancer = balancer
        self._compute_terms = compute_terms
        self._optimizer = optimizer
        self._params = reusable(params)
        self._options = options
        self._first = True
        _tell_of_new_steps(self, optimizer)

    def __call__(self) -> Tensor:
        with torch.enable_grad():
            self._optimizer.zero_grad()
            terms = self._compute_terms()
        refresh = None if self._first else False
        step = self._balancer.backward(terms, self._params, refresh=refresh, **self._options)
        self._first = False
        return step.total


def _tell_of_new_steps(closure: Closure, optimizer: torch.optim.Optimizer) -> None:
    """The next call is the first again when the optimiser starts a step. Nothing is kept alive."""
    weak = weakref.ref(closure)

    def starts(*_: Any) -> None:
        alive = weak()
        if alive is not None:
            alive._first = True

    handle = optimizer.register_step_pre_hook(starts)
    weakref.finalize(closure, handle.remove)
