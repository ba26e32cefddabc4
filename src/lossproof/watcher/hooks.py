"""The places at which a guard sees a training: modules and optimizers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

Observe = Callable[..., None]
"""Calls its first argument with the others, on the side: nothing that goes wrong comes out."""


class Hook(functools.partial[None]):
    """An action that a module or an optimizer sets off, and that does not travel with it.

    A model is copied for an average of its weights and pickled for a checkpoint, its hooks with it.
    The copies are nobody's to watch.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return (Hook, (nothing,))


def nothing(*args: Any) -> None:
    """What the hooks of a copy do."""


class Followed:
    """A closure, and what is done when it returned for the first time."""

    def __init__(self, closure: Callable[[], Any], action: Callable[[], None]) -> None:
        self._closure = closure
        self._action: Callable[[], None] | None = action

    def __call__(self) -> Any:
        result = self._closure()
        action, self._action = self._action, None
        if action is not None:
            action()
        return result


class Hooks:
    """Hooks on modules and on every optimizer, which are taken away together.

    Args:
        observe: how an action is called.
    """

    def __init__(self, observe: Observe) -> None:
        self._observe = observe
        self._handles: list[Any] = []

    def before_forward(self, module: nn.Module, action: Callable[..., Any]) -> None:
        """Call ``action(module, args, kwargs)`` before each forward of a module."""
        hook = Hook(self._observe, action)
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after_forward(self, module: nn.Module, action: Callable[..., Any]) -> None:
        """Call ``action(module, args, kwargs, result)`` after each forward of a module."""
        hook = Hook(self._observe, action)
        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def before_step(self, action: Callable[..., Any]) -> None:
        """Call ``action(optimizer, args, kwargs)`` before each step of any optimizer.

        A step that is given a closure computes the gradients itself: there it is called when the
        closure returns for the first time, before anything is updated.
        """
        hook = Hook(self._observe, action)

        def begins(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
            if not callable(closure):
                hook(optimizer, args, kwargs)
                return None
            followed = Followed(closure, lambda: hook(optimizer, args, kwargs))
            if "closure" in kwargs:
                return args, {**kwargs, "closure": followed}
            return (args[0], followed, *args[2:]), kwargs

        self._handles.append(register_optimizer_step_pre_hook(begins))

    def after_step(self, action: Callable[..., Any]) -> None:
        """Call ``action(optimizer, args, kwargs)`` after each step of any optimizer."""
        self._handles.append(register_optimizer_step_post_hook(Hook(self._observe, action)))

    def remove(self) -> None:
        """Take all away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
