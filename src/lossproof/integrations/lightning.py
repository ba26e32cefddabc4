"""A balancer within PyTorch Lightning's automatic optimisation, and the training guard."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lossproof.integrations._passes import Passes
from lossproof.integrations._stand_in import (
    factor_between,
    guarded,
    plain_sum,
    squared,
    without_scale,
)
from lossproof.terms.balance.base import Balancer

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep
    from lossproof.watcher.guard import Guard

__all__ = ["BalancedTerms", "watch_callback"]

Tensor = torch.Tensor
REFUSED = ("DeepSpeedStrategy", "FSDPStrategy", "SingleDeviceXLAStrategy", "XLAStrategy")
"""Strategies that send the loss backward by themselves, or whose parameters are flattened."""
PROBLEMS = ("nonfinite", "dropped", "dead", "dominating", "conflicting")
"""The kinds of problems that the figures of one step may name."""


@dataclass(frozen=True)
class _Pending:
    """Terms that wait for their backward pass."""

    balancer: Balancer
    terms: Mapping[str, Any]
    options: Mapping[str, Any]
    loss: Tensor
    batch: tuple[int, int] | None
    """Which batch they are of: a step that returns ``None`` leaves them behind."""


class BalancedTerms:
    """A base of a ``LightningModule`` whose loss is a set of terms, weighted by a balancer.

    ``training_step`` returns ``self.balance(self.balancer, terms)``, and the balancer fills the
    gradients where Lightning sends the loss backward. Automatic optimisation stays as it is:
    gradient accumulation, clipping, mixed precision, ``DistributedDataParallel``. The weights are
    computed in the first pass of an optimizer step, and held in its other passes.

    What ``balance`` returns is the plain sum of the terms, which can be compared over a training
    in which the weights move, and with a validation. The figures of the step are logged as
    ``terms/value/...``, ``terms/weight/...``, ``terms/total`` (what was minimised) and so on, and
    ``terms/conflicting`` (``dead``, ``dominating``, ...) is how many pairs or terms are so.

    It must come before ``LightningModule`` among the bases. It does not work with manual
    optimisation, LBFGS, DeepSpeed, FSDP1, XLA and ``static_graph=True``, and says so.

    Attributes:
        terms_prefix: what the name of each logged figure begins with; ``None`` logs nothing.

    Example:
        >>> import lightning as L
        >>> import torch
        >>> from lossproof.integrations.lightning import BalancedTerms
        >>> from lossproof.terms import UPGrad
        >>> class Net(BalancedTerms, L.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(4, 2)
        ...         self.balancer = UPGrad(["fit", "size"])
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         x, y = batch
        ...         out = self.layer(x)
        ...         terms = {"fit": (out - y).square().mean(), "size": out.abs().mean()}
        ...         return self.balance(self.balancer, terms)
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters())
    """

    terms_prefix: str | None = "terms/"
    _pending: _Pending | None = None
    _passes: Passes | None = None
    _batch: tuple[int, int] | None = None

    @property
    def balance_step(self) -> BalanceStep | None:
        """The figures of the last step of the optimizer."""
        return None if self._passes is None else self._passes.step

    def balance(self, balancer: Balancer, terms: Mapping[str, Any], **options: Any) -> Tensor:
        """The loss to return from ``training_step``; in evaluation the plain sum of the terms.

        Args:
            balancer: a module that is part of this one, so that its state is in the checkpoint.
            terms: what :meth:`lossproof.terms.Balancer.backward` takes.
            **options: as for :meth:`lossproof.terms.Balancer.backward`: ``on``, ``clip_terms``,
                ``nonfinite`` and so on. ``params`` is all of this module without the balancer.

        Raises:
            TypeError: ``balancer`` is no balancer, or ``terms`` no mapping.
            ValueError: the balancer is no part of this module.
        """
        if not isinstance(balancer, Balancer):
            raise TypeError(f"`balancer` must be a Balancer, got {type(balancer).__name__}")
        module: Any = self
        if all(part is not balancer for part in module.modules()):
            raise ValueError(
                "`balancer` must be an attribute of the LightningModule: its state belongs into "
                "the checkpoint"
            )
        if not (torch.is_grad_enabled() and module.training):
            return plain_sum(terms, balancer)
        loss = guarded(terms, balancer)
        self._pending = _Pending(balancer, terms, options, loss, _batch_of(module))
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and sent to other processes: terms that wait have a graph, and stay."""
        state = dict(super().__getstate__())  # type: ignore[misc]
        state.pop("_pending", None)
        return state

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Where Lightning sends the loss backward: the balancer fills the gradients."""
        pending, self._pending = self._pending, None
        module: Any = self
        batch = _batch_of(module)
        if pending is None or pending.batch != batch:
            super().backward(loss, *args, **kwargs)  # type: ignore[misc]
            return
        _refuse_what_does_not_work(module)
        factor = factor_between(loss, pending.loss)
        trainer, balancer = module.trainer, pending.balancer
        own = {id(parameter) for parameter in balancer.parameters()}
        chosen = {
            name: parameter
            for name, parameter in module.named_parameters()
            if id(parameter) not in own
        }
        self._passes = self._passes or Passes()
        self._passes.backward(
            balancer,
            pending.terms,
            (id(trainer), trainer.global_step),
            {
                "params": chosen,
                **pending.options,
                **kwargs,
                "scaler": trainer.scaler,
                "factor": without_scale(factor, trainer.scaler),
            },
            again=batch == self._batch,
        )
        self._batch = batch
        self._log_terms(self._passes.step)

    def _log_terms(self, step: BalanceStep | None) -> None:
        """Log the figures where somebody reads them: elsewhere nobody waits for the device.

        The loggers do in every n-th step, callbacks that monitor a figure at the end of an epoch.
        """
        module: Any = self
        trainer = module.trainer
        every = trainer.log_every_n_steps
        written = every and (trainer.global_step + 1) % every == 0
        due = written or trainer.is_last_batch or trainer.fast_dev_run
        if step and self.terms_prefix is not None and due:
            module.log_dict(_always_there(step, self.terms_prefix))


def _batch_of(module: Any) -> tuple[int, int] | None:
    """Which batch of a fit it is; none outside of one."""
    trainer = module._trainer  # `trainer` raises where there is none
    return None if trainer is None else (trainer.current_epoch, trainer.fit_loop.batch_idx)


def _always_there(step: BalanceStep, prefix: str) -> dict[str, float]:
    """The figures of a step, and of each kind of problem how many there are.

    Lightning writes a key that was logged once in every later step of the epoch: a problem that
    has a key only where it is there would stay.
    """
    figures = step.as_dict(prefix)
    kinds = [key.removeprefix(prefix).split("/")[0] for key in figures]
    counts = {kind: kinds.count(kind) for kind in PROBLEMS}
    rest = {
        key: one
        for (key, one), kind in zip(figures.items(), kinds, strict=True)
        if kind not in counts
    }
    judged = {kind: n for kind, n in counts.items() if n or step.refreshed}
    return {**rest, **{f"{prefix}{kind}": float(n) for kind, n in judged.items()}}


def _refuse_what_does_not_work(module: Any) -> None:
    if not module.automatic_optimization:
        raise ValueError(
            "`balance` is for automatic optimisation: with manual optimisation, and so with "
            "several optimizers, call balancer.backward(terms, params) in place of "
            "manual_backward(loss)"
        )
    strategy = module.trainer.strategy
    refused = {cls.__name__ for cls in type(strategy).__mro__} & set(REFUSED)
    if refused:
        raise ValueError(
            f"a balancer does not work with {type(strategy).__name__}, which sends the loss "
            "backward by itself or flattens the parameters; DDPStrategy and ModelParallelStrategy "
            "(FSDP2) are for several devices"
        )
    if any(isinstance(one, torch.optim.LBFGS) for one in module.trainer.optimizers):
        raise ValueError(
            "a balancer does not work with LBFGS in automatic optimisation: its line search would "
            "compare plain sums of the terms; use manual optimisation and balancer.closure"
        )
    if getattr(strategy.model, "static_graph", False):
        raise ValueError("a balancer does not work with DDPStrategy(static_graph=True)")


# ---- the training guard


def watch_callback(*, prefix: str = "watch/", **options: Any) -> Any:
    """A callback that watches a fit with :func:`lossproof.watch`, and logs what the guard sees.

    The guard sees ``training_step``: its loss, or the terms of :class:`BalancedTerms`, with the
    norms of their gradients where the balancer measured them. Where an alarm needs it, the step is
    performed again, on the same batch and with the same random numbers; what it logs then is
    dropped. With manual optimisation it sees the gradients at each step of an optimizer, and no
    terms: note them in ``training_step`` by ``guard.note``.

    Args:
        prefix: what the name of each logged figure begins with.
        **options: as for :func:`lossproof.watch`: ``on_alarm``, ``ring``, ``share``, ``memory``.

    Returns:
        A ``lightning.pytorch.Callback``. Its ``guard`` is that of the last fit.

    Raises:
        ImportError: Lightning is not installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise ImportError(
            "Lightning is not installed: pip install 'lossproof[lightning]'"
        ) from error
    from lossproof.watcher.guard import watch

    class Watch(Callback):
        """Starts and stops the guard."""

        guard: Guard | None = None
        step: WatchedStep | None = None

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.guard = watch(pl_module, **options).start()
            if pl_module.automatic_optimization:  # else the optimizer steps within it
                self.step = WatchedStep(self.guard, pl_module)

        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            step = getattr(pl_module, "balance_step", None)
            if self.guard is not None and step is not None:
                self.guard.note_step(step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *others: Any) -> None:
            every = trainer.log_every_n_steps
            due = trainer.is_last_batch or (every and trainer.global_step % every == 0)
            if self.guard is not None and due:
                pl_module.log_dict(self.guard.as_dict(prefix))

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._stop()

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self._stop()

        def __reduce__(self) -> Any:  # to processes that are spawned it goes without a guard
            return functools.partial(watch_callback, prefix=prefix, **options), ()

        def _stop(self) -> None:
            if self.guard is not None:
                self.guard.stop()
            if self.step is not None:
                self.step.remove()
                self.step = None

    return Watch()


class WatchedStep:
    """A ``training_step`` that a guard sees, and may call again.

    Args:
        guard: the guard.
        module: the LightningModule, whose step is replaced until :meth:`remove`.
    """

    def __init__(self, guard: Guard, module: Any) -> None:
        self._module = module
        self._original = module.training_step
        self._replaced = vars(module).get("training_step")  # such as a compiled one
        self._live = False
        self._output: Any = None
        self._watched = guard.wrap(self._terms)
        step = functools.wraps(self._original)(lambda *args, **kwargs: self._run(args, kwargs))
        module.training_step = step

    def remove(self) -> None:
        """Put the step back."""
        vars(self._module).pop("training_step", None)
        if self._replaced is not None:
            self._module.training_step = self._replaced
        self._output = None

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._live = True
        try:
            self._watched(*args, **kwargs)
        finally:
            self._live = False
        output, self._output = self._output, None
        return output

    def _terms(self, *args: Any, **kwargs: Any) -> Any:
        """What is minimised: the terms, or the loss."""
        if self._live:
            self._output = self._original(*args, **kwargs)
            return self._minimised(self._output)
        pending = getattr(self._module, "_pending", None)
        with _silent(self._module):
            output = self._original(*args, **kwargs)
        minimised = self._minimised(output)
        if hasattr(self._module, "_pending"):
            self._module._pending = pending
        return minimised

    def _minimised(self, output: Any) -> Any:
        pending = getattr(self._module, "_pending", None)
        if pending is not None:
            return squared(pending.terms, pending.balancer)
        return output.get("loss") if isinstance(output, Mapping) else output


@contextmanager
def _silent(module: Any) -> Iterator[None]:
    """Inside, the module logs nothing."""
    module.log = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del module.log
