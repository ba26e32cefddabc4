"""The places at which a guard sees a training: modules and optimizers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.compiler import is_compiling
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lossproof.watcher.alarm import Alarm
from lossproof.watcher.budget import Budget
from lossproof.watcher.isolation import REPLAYS


class Gate:
    """What stands between a training and the guard that watches it.

    Attributes:
        closed: whether the guard is to see nothing now: it computes itself, or has stopped.
        stopped: whether it has not begun to watch, or has stopped.
        budget: told what an observation takes.
        raised: alarms that are to be delivered.
        fail: called when an observation has raised.
        deliver: called when there are alarms.
    """

    __slots__ = ("budget", "closed", "deliver", "fail", "raised", "stopped")

    def __init__(
        self, budget: Budget, raised: list[Alarm],
        fail: Callable[[], None], deliver: Callable[[], None],
    ) -> None:  # fmt: skip
        self.closed = self.stopped = True
        self.budget = budget
        self.raised = raised
        self.fail = fail
        self.deliver = deliver

    def open(self) -> None:
        """Begin to watch."""
        self.closed = self.stopped = False

    def stop(self) -> None:
        """Watch no more."""
        self.closed = self.stopped = True


class Hook:
    """An observation that a module, an optimizer or a function sets off.

    Nothing that goes wrong in it comes out, and it does not travel with a module: a model is copied
    for an average of its weights and pickled for a checkpoint, its hooks with it. The copies are
    nobody's to watch.
    """

    __slots__ = ("_action", "_gate")

    def __init__(self, gate: Gate, action: Callable[..., None]) -> None:
        self._gate = gate
        self._action = action

    def __call__(self, *args: Any) -> None:
        # A compiler that traces the model is not to make the guard a part of its program.
        if is_compiling() or self._gate.closed or REPLAYS:
            return
        gate, budget = self._gate, self._gate.budget
        timed = budget.timed
        begun = time.perf_counter() if timed else 0.0
        gate.closed = True  # what the guard calls itself is not to be seen
        try:
            self._action(*args)
        except Exception:
            gate.fail()
        finally:
            gate.closed = gate.stopped
        if timed:
            budget.spent += time.perf_counter() - begun
        if gate.raised:
            gate.deliver()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_of_a_copy, ())


def _of_a_copy() -> Callable[..., None]:
    """What the hooks of a copy are."""
    return nothing


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
        gate: what their observations pass.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._handles: list[Any] = []

    def before_forward(self, module: nn.Module, action: Callable[..., Any]) -> None:
        """Call ``action(module, args, kwargs)`` before each forward of a module."""
        hook = Hook(self._gate, action)
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after_forward(self, module: nn.Module, action: Callable[..., Any]) -> None:
        """Call ``action(module, args, kwargs, result)`` after each forward of a module."""
        hook = Hook(self._gate, action)
        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def before_step(self, action: Callable[..., Any]) -> None:
        """Call ``action(optimizer, args, kwargs)`` before each step of any optimizer.

        A step that is given a closure computes the gradients itself: there it is called when the
        closure returns for the first time, before anything is updated.
        """
        hook = Hook(self._gate, action)

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
        self._handles.append(register_optimizer_step_post_hook(Hook(self._gate, action)))

    def remove(self) -> None:
        """Take all away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
