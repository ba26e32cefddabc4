"""A balancer within PyTorch Lightning's automatic optimisation, and the training guard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lossproof.integrations._passes import Passes
from lossproof.integrations._stand_in import factor_between, guarded, plain_sum, without_scale
from lossproof.terms.balance.base import Balancer

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep

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
            return plain_sum(terms)
        loss = guarded(terms)
        self._pending = _Pending(balancer, terms, options, loss)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Where Lightning sends the loss backward: the balancer fills the gradients."""
        pending, self._pending = self._pending, None
        if pending is None:
            super().backward(loss, *args, **kwargs)  # type: ignore[misc]
            return
        module: Any = self
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
        batch = trainer.current_epoch, trainer.fit_loop.batch_idx
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
        """Log the figures in the steps of which the loggers write: elsewhere nobody waits."""
        module: Any = self
        every = module.trainer.log_every_n_steps
        due = every and (module.trainer.global_step + 1) % every == 0
        if step and self.terms_prefix is not None and (due or module.trainer.fast_dev_run):
            module.log_dict(_always_there(step, self.terms_prefix))


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
