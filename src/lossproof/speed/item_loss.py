"""A loss as something that gives the values of items: whichever way it was written."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

Tensor = torch.Tensor
Counting = Literal["items", "class weights"]
"""What the mean of a loss divides by: how many items count, or the weights of their classes."""

_CROSS_ENTROPY = (nn.functional.cross_entropy, nn.CrossEntropyLoss)
_BY_CLASS_WEIGHTS = (
    nn.functional.cross_entropy,
    nn.functional.nll_loss,
    nn.CrossEntropyLoss,
    nn.NLLLoss,
)


class ItemLoss:
    """Calls a loss for the values of its items, and knows what its own mean is.

    Args:
        loss: a function, a partial one, or a Module. It follows the contract, and is then called
            with ``reduction="none"``, or it has no reduction and returns a value for each row.
    """

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self.loss = loss
        self._base: Any = loss
        while isinstance(self._base, functools.partial):
            self._base = self._base.func
        self._parameters = _parameters_of(self._base)
        own = self.option("reduction")
        self.reduction: str | None = own if isinstance(own, str) else None
        """The reduction that it would apply; ``None`` where it has none."""

    @property
    def module(self) -> nn.Module | None:
        """The Module, where it is one: its parameters are trained with it."""
        return self._base if isinstance(self._base, nn.Module) else None

    def option(self, name: str) -> Any:
        """An option as it was set, or its default; ``None`` where there is none of this name."""
        given: Any = self.loss
        while isinstance(given, functools.partial):
            if name in given.keywords:
                return given.keywords[name]
            given = given.func
        if name in self._parameters:
            default = self._parameters[name].default
            return None if default is inspect.Parameter.empty else default
        if isinstance(self._base, nn.Module):
            return getattr(self._base, name, None)
        return None

    def takes(self, name: str) -> bool:
        """Whether the loss can be called with this option."""
        return name in self._parameters

    def is_cross_entropy(self) -> bool:
        """Whether this is torch's cross entropy."""
        return self._base is nn.functional.cross_entropy or type(self._base) is nn.CrossEntropyLoss

    def class_weights(self, target: Any) -> Tensor | None:
        """The weights of the classes, where it has some and the target holds class indices."""
        weight = self.option("weight")
        indices = isinstance(target, Tensor) and not target.is_floating_point()
        if indices and isinstance(weight, Tensor) and weight.ndim == 1:
            return weight
        return None

    def counting(self, target: Any) -> Sequence[Counting]:
        """What its mean may divide by, the likelier first."""
        if self.class_weights(target) is None:
            return ("items",)
        if self._base in _BY_CLASS_WEIGHTS or type(self._base) in _BY_CLASS_WEIGHTS:
            return ("class weights",)
        return ("class weights", "items")

    def values(
        self,
        parameters: Mapping[str, Tensor],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        reduction: str = "none",
    ) -> Tensor:
        """The loss of these rows.

        Args:
            parameters: what stands for the parameters of the Module, by name.
            arguments: the logits, the target and what else there is for each row.
            options: further keyword arguments.
            reduction: what it is called with, where it has a reduction.
        """
        if isinstance(self._base, nn.Module):
            return self._by_module(self._base, parameters, arguments, options, reduction)
        if self.takes("reduction"):
            options = {**options, "reduction": reduction}
        return self.loss(*arguments, **options)

    def _by_module(
        self,
        module: nn.Module,
        parameters: Mapping[str, Tensor],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        reduction: str,
    ) -> Tensor:
        if self.reduction is not None and not self.takes("reduction"):
            module = copy.copy(module)  # it shares parameters and buffers with the original
            module.reduction = reduction  # type: ignore[assignment]
        elif self.takes("reduction"):
            options = {**options, "reduction": reduction}
        partial: Any = self.loss
        while isinstance(partial, functools.partial):
            arguments = (*partial.args, *arguments)
            options = {**partial.keywords, **options}
            partial = partial.func
        if parameters:
            found: Tensor = torch.func.functional_call(
                module, dict(parameters), tuple(arguments), dict(options)
            )
            return found
        result: Tensor = module(*arguments, **options)
        return result


def _parameters_of(base: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function, or of the ``forward`` of a Module."""
    try:
        signature = inspect.signature(base.forward if isinstance(base, nn.Module) else base)
        return dict(signature.parameters)  # a plain one, which can be copied
    except (TypeError, ValueError):  # a builtin
        return {}
