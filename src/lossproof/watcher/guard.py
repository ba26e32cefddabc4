"""The training guard: ``lossproof.watch``."""

from __future__ import annotations

import functools
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.compiler import is_compiling

from lossproof.errors import GuardRetiredWarning, TrainingAlarmError, TrainingAlarmWarning
from lossproof.watcher.alarm import Alarm, StepFigures
from lossproof.watcher.budget import Budget
from lossproof.watcher.hooks import Gate, Hook, Hooks
from lossproof.watcher.isolation import REPLAYS
from lossproof.watcher.observation import Observation

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep

Tensor = torch.Tensor
OnAlarm = Literal["warn", "raise"] | Callable[[Alarm], object]


def watch(
    model: nn.Module,
    loss: nn.Module | None = None,
    *,
    on_alarm: OnAlarm = "warn",
    ring: int = 64,
    share: float = 0.02,
    memory: int = 256 * 2**20,
) -> Guard:
    """Watch a training, and say what goes wrong in it: which term, which sample, which line.

    The guard keeps the values of the loss's terms and the norms of the gradients of the last steps.
    It raises an alarm when

    - a term or a gradient is no longer finite,
    - one explodes: 1,000 times what it was at most in the ring, or a steady rise to 100 times its
      middle or 1,000 times its beginning,
    - the gradient vanishes while the loss is not 0, or no gradient comes from a term any more,
    - a parameter gets no gradient for ten steps,
    - a backward that somebody wrote by hand is wrong: this is checked in the second step, on the
      live batch.

    With the alarm comes a diagnosis: the step is performed again on what was held of it, under a
    trace, and says which operation on which line did it, which samples of the batch, what led to it
    and what to do. The optimizer has not updated the parameters by then. (On a device that runs
    ahead of the processor the alarm comes a few steps later, because nothing here waits for the
    device; the step that went wrong is performed again with a copy of its parameters.)

    The steps are found by themselves, through torch's hooks on optimizers; without such an
    optimizer, call :meth:`Guard.update`. What the guard sees of the loss is up to you: a Module
    given here is seen as it is called; any other function is wrapped once by :meth:`Guard.wrap`;
    values alone can be given to :meth:`Guard.note`.

    It takes some tens of microseconds in every step, and spaces its close looks so that it stays
    below `share` of a step with them: norms are measured in every step where that is cheap enough,
    else in every second, third, ..., at the least in one of 1,024. In steps of a few milliseconds
    or less the microseconds alone may be more than `share`; `cost` tells. If the guard itself
    fails, it says so once and leaves the training alone. Not seen: evaluation (``model.eval()`` or
    ``torch.no_grad()``), what runs inside a compiled program, and steps that
    ``torch.amp.GradScaler`` leaves out. Of a model that
    is sharded over ranks each rank sees its own part, and what would need the other ranks is not
    performed again.

    Args:
        model: what is trained.
        loss: the loss, where it is a Module that the training calls.
        on_alarm: ``"warn"`` (a :class:`~lossproof.errors.TrainingAlarmWarning`), ``"raise"`` (a
            :class:`~lossproof.errors.TrainingAlarmError`, before the parameters are updated), or a
            function that takes the :class:`Alarm`.
        ring: for how many steps figures are kept, at least 4.
        share: the part of a step's time up to which close looks are taken, in (0, 1]. With 1
            every step is looked at closely, whatever that takes.
        memory: bytes that the guard may hold of a step (its batch and what the model made of it),
            and again for the copy of the parameters on a device that runs ahead.

    Returns:
        The guard, a context manager; or call its ``start()`` and ``stop()``.

    Raises:
        TypeError: an argument is of another type. A loss that is a function is to be wrapped.
        ValueError: `ring`, `share` or `memory` is out of range, or `on_alarm` another word.

    Example:
        >>> import torch, lossproof
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> def terms_of(x):
        ...     size = model(x).abs().sum(1)
        ...     return {"size": size.mean(), "log": (size - size.detach()).log().mean()}
        >>> alarms = []
        >>> with lossproof.watch(model, on_alarm=alarms.append) as guard:
        ...     compute = guard.wrap(terms_of)
        ...     terms = compute(torch.ones(4, 2))
        >>> alarms[0].kind.value, alarms[0].term
        ('non-finite-loss', 'log')
        >>> alarms[0].diagnosis.operation, alarms[0].diagnosis.samples
        ('log', (0, 1, 2, 3))
    """
    return Guard(model, loss, on_alarm=on_alarm, ring=ring, share=share, memory=memory)


class Guard:
    """What watches a training; made by :func:`watch`, which documents the arguments.

    Attributes:
        alarms: what went wrong so far.
        history: the figures of the last steps, the newest last.
        retired: why the guard gave up, if it failed.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None,
        *,
        on_alarm: OnAlarm,
        ring: int,
        share: float,
        memory: int,
    ) -> None:
        _check_modules(model, loss)
        _check_numbers(ring, share, memory)
        if on_alarm not in ("warn", "raise") and not callable(on_alarm):
            raise ValueError(f'`on_alarm` must be "warn", "raise" or a function, got {on_alarm!r}')
        self.alarms: list[Alarm] = []
        self.retired: str | None = None
        self._model = model
        self._loss = loss
        self._on_alarm = on_alarm
        self._budget = Budget(share, ("norms", "terms"))
        self._seen = Observation(model, loss, ring, memory, self._budget)
        self._gate = Gate(self._budget, self._seen.raised, self._retire, self._deliver)
        self._hooks = Hooks(self._gate)
        self._returned = Hook(self._gate, self._seen.returned)

    def start(self) -> Guard:
        """Begin to watch; a guard that watches already goes on."""
        if self._gate.stopped:
            self._gate.open()
            self._budget.started()
            self._hooks.before_forward(self._model, self._seen.before_model)
            self._hooks.after_forward(self._model, self._seen.after_model)
            if self._loss is not None:
                self._hooks.after_forward(self._loss, self._seen.after_loss)
            self._hooks.before_step(self._seen.before_step)
            self._hooks.after_step(self._seen.after_step)
        return self

    def stop(self) -> None:
        """Stop watching. The alarms and the history stay; what was held of the step is let go."""
        self._hooks.remove()
        if not self._gate.stopped:
            Hook(self._gate, self._seen.finish)()
        self._gate.stop()
        self._seen.release()

    def __enter__(self) -> Guard:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def wrap(self, function: Callable[..., Any], name: str = "loss") -> Callable[..., Any]:
        """A function that does what `function` does, while the guard sees its terms.

        What it returns is what is to be minimised: a scalar tensor, or a mapping from names to
        terms. It may be a loss, or take a batch and call the model itself; the more of the step it
        holds, the more exactly the step can be performed again.

        Args:
            function: a function, a Module, or a subclass of ``torch.autograd.Function``.
            name: what a single tensor is called.

        Raises:
            TypeError: `function` cannot be called.
        """
        if isinstance(function, type) and issubclass(function, torch.autograd.Function):
            function = function.apply
        if not callable(function):
            raise TypeError(f"`function` must be callable, got {type(function).__name__}")

        def watched(*args: Any, **kwargs: Any) -> Any:
            if not self._watching:
                return function(*args, **kwargs)
            state = self._seen.tape.generators_of_terms()
            self._gate.closed = True  # the model within is a part of the function
            try:
                result = function(*args, **kwargs)
            finally:
                self._gate.closed = self._gate.stopped
            self._returned(name, function, args, kwargs, state, result)
            return result

        functools.update_wrapper(watched, function)
        return watched

    def note(self, terms: Any, name: str = "loss") -> Any:
        """Note the value of a term, or of a mapping of terms, and return it.

        For code that is not in a function which :meth:`wrap` could take: an alarm says which term
        and in which step, but not on which line.
        """
        if self._watching:
            Hook(self._gate, self._seen.noted)(terms, name)
        return terms

    def note_step(self, step: BalanceStep) -> None:
        """Note what ``balancer.backward`` returned: values and gradient norms of all terms."""
        if self._watching:
            Hook(self._gate, self._seen.balanced)(step)

    def update(self) -> None:
        """Say that the parameters are about to be updated.

        For a training without an optimizer of ``torch.optim``: to be called after the backward
        pass, while the gradients are still in ``.grad``. The step ends with it.
        """
        if self._watching:
            Hook(self._gate, self._seen.update)()

    @property
    def history(self) -> tuple[StepFigures, ...]:
        """The figures of the last steps, the newest last."""
        return self._seen.figures()

    @property
    def cost(self) -> float:
        """The part of a step's time that the guard takes, measured; without its diagnoses."""
        return self._budget.cost

    def as_dict(self, prefix: str = "watch/") -> dict[str, float]:
        """The newest figures as a flat dictionary, for any tracker.

        A norm is of the last step that was looked at closely, which may lie before the last.

        Keys: the name of each term; ``gradient_norm``; ``gradient_norm/TERM`` where it was
        measured; ``alarms``, how many there were.
        """
        figures: dict[str, float] = {}
        for step in self.history:
            figures |= {f"{prefix}{name}": value for name, value in step.values.items()}
            if step.norm is not None:
                figures[f"{prefix}gradient_norm"] = step.norm
            for name, norm in step.norms.items():
                figures[f"{prefix}gradient_norm/{name}"] = norm
        return {**figures, f"{prefix}alarms": float(len(self.alarms))}

    def __repr__(self) -> str:
        words = self.retired or ("stopped" if self._gate.stopped else "watching")
        count = len(self.alarms)
        return f"<Guard {words}, step {self._seen.step}, {count} alarm{'s' * (count != 1)}>"

    @property
    def _watching(self) -> bool:
        if is_compiling() or self._gate.closed or REPLAYS:
            return False
        return self._seen.is_training and torch.is_grad_enabled()

    def _deliver(self) -> None:
        """Hand on the alarms of the last observation, in their order."""
        while self._seen.raised:
            alarm = self._seen.raised.pop(0)
            self.alarms.append(alarm)
            if self._on_alarm == "raise":
                raise TrainingAlarmError(alarm)
            if callable(self._on_alarm):
                self._on_alarm(alarm)
            else:
                warnings.warn(f"\n{alarm}", TrainingAlarmWarning, stacklevel=4)

    def _retire(self) -> None:
        """Leave the training alone from now on."""
        self.retired = f"retired after {traceback.format_exc(limit=-1).strip().splitlines()[-1]}"
        self._gate.stop()
        self._hooks.remove()
        self._seen.release()
        warnings.warn(
            f"the guard of `lossproof.watch` failed, and the training goes on without it; please"
            f" report this:\n{traceback.format_exc()}",
            GuardRetiredWarning,
            stacklevel=4,
        )


def _check_modules(model: object, loss: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if loss is not None and not isinstance(loss, nn.Module):
        raise TypeError(
            f"`loss` must be a torch.nn.Module, whose calls can be seen, got"
            f" {getattr(loss, '__name__', type(loss).__name__)}; wrap another one:"
            " `loss = guard.wrap(loss)`"
        )


def _check_numbers(ring: object, share: object, memory: object) -> None:
    if not isinstance(ring, int) or isinstance(ring, bool) or not 4 <= ring <= sys.maxsize:
        raise ValueError(f"`ring` must be a whole number of steps, at least 4, got {ring!r}")
    if not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"`share` must be a number in (0, 1], got {share!r}")
    if not isinstance(memory, int) or isinstance(memory, bool) or memory < 0:
        raise ValueError(f"`memory` must be a number of bytes, 0 or more, got {memory!r}")
