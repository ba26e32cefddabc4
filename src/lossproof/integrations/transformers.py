"""Losses and balancers within the Trainer of Hugging Face."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lossproof.integrations._model_outputs import LossFunction, loss_function
from lossproof.integrations._passes import Passes
from lossproof.integrations._stand_in import leaf, plain_sum, without_scale
from lossproof.integrations.accelerate import refuse_what_does_not_work
from lossproof.terms.balance.base import Balancer

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep

__all__ = ["BalancedTerms", "LossFunction", "loss_function", "watch_callback"]

Tensor = torch.Tensor
Term = Callable[..., Tensor]

FILE = "balancer.pt"
"""Where the state of the balancer is in the folder of a checkpoint."""


class BalancedTerms:
    """A base of a ``Trainer`` whose loss is a set of terms, weighted by a balancer.

    The balancer fills the gradients where ``Trainer`` sends the loss backward; gradient
    accumulation, clipping, mixed precision and ``DistributedDataParallel`` stay as they are. The
    weights are computed in the first micro-batch of an optimizer step, and held in the others. The
    figures are logged with the loss, as ``terms/value/...``, ``terms/weight/...``,
    ``terms/total`` (what was minimised) and so on; the loss itself, in training and in evaluation,
    is the plain sum of the terms, which can be compared while the weights move. A checkpoint holds
    the state of the balancer, and its learned parameters are the optimizer's, too.

    It must come before ``Trainer`` among the bases. It does not work with DeepSpeed, FSDP and
    ``DataParallel``, and says so.

    Args:
        *args: as for ``Trainer``.
        terms: the terms by name, each a function of the outputs of the model and the labels. One
            that takes ``num_items_in_batch``, as :func:`loss_function` makes them, divides by it;
            any other is a mean over its micro-batch.
        balancer: weighs the terms; it is known by the names of the terms.
        balancer_options: options of :meth:`lossproof.terms.Balancer.backward` in each step.
        **kwargs: as for ``Trainer``, but ``compute_loss_func``.

    Attributes:
        terms_prefix: what the name of each logged figure begins with; ``None`` logs nothing.

    Raises:
        TypeError: ``terms`` is no mapping to functions, or ``balancer`` no balancer.
        ValueError: ``compute_loss_func`` was given, or the processes are distributed in a way in
            which a balancer does not work.

    Example:
        >>> from transformers import Trainer
        >>> from lossproof.integrations.transformers import BalancedTerms
        >>> class BalancedTrainer(BalancedTerms, Trainer):
        ...     pass
    """

    terms_prefix: str | None = "terms/"
    _pending: tuple[dict[str, Tensor], Tensor] | None = None

    def __init__(
        self,
        *args: Any,
        terms: Mapping[str, Term],
        balancer: Balancer,
        balancer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        given: Any = terms
        if not isinstance(given, Mapping) or not given or not all(map(callable, given.values())):
            raise TypeError(f"`terms` must map names to functions, got {terms!r}")
        if not isinstance(balancer, Balancer):
            raise TypeError(f"`balancer` must be a Balancer, got {type(balancer).__name__}")
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` is made of `terms`: give one of them")
        self.balancer = balancer
        self.terms = dict(terms)
        self.balancer_options = dict(balancer_options or {})
        self._passes = Passes()
        self._counting = {name for name, term in terms.items() if _counts(term)}
        kwargs["compute_loss_func"] = self._loss_of_terms
        super().__init__(*args, **kwargs)
        _refuse_what_does_not_work(self)
        balancer.to(self.args.device)  # type: ignore[attr-defined]

    @property
    def balance_step(self) -> BalanceStep | None:
        """The figures of the last step of the optimizer."""
        return self._passes.step

    # ---- a step

    def _loss_of_terms(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None
    ) -> Tensor:
        """The plain sum of the terms, as its part of the whole batch."""
        parts = self._parts(num_items_in_batch)
        terms = self._computed(outputs, labels, num_items_in_batch, parts)
        if not torch.is_grad_enabled():
            return plain_sum(terms, self.balancer) / parts
        total = leaf(terms, self.balancer)
        self._pending = terms, total
        return total / parts

    def _computed(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Any, parts: float
    ) -> dict[str, Tensor]:
        """The terms, of the size that they have in the whole batch."""
        return {
            name: parts * term(outputs, labels, num_items_in_batch=num_items_in_batch)
            if name in self._counting and num_items_in_batch is not None
            else term(outputs, labels)
            for name, term in self.terms.items()
        }

    def _parts(self, num_items_in_batch: Any) -> float:
        """Into how many parts the batch is split, which Trainer adds up.

        A term that is divided by the items of the whole batch is so much smaller than its mean.
        Trainer takes the mean over the processes, and multiplies by their number if it counted
        over all of them.
        """
        trainer: Any = self
        parts = trainer.current_gradient_accumulation_steps if torch.is_grad_enabled() else 1
        if num_items_in_batch is not None and trainer.args.average_tokens_across_devices:
            parts *= trainer.accelerator.num_processes
        return float(parts)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in ``Trainer``; the balancer fills the gradients after it sent the loss backward."""
        self._pending = None
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        pending: tuple[dict[str, Tensor], Tensor] | None = self._pending
        self._pending = None
        if pending is None:
            raise RuntimeError("`compute_loss` did not call `compute_loss_func` in this step")
        terms, total = pending
        self._fill(terms, total.grad)
        return loss

    def _fill(self, terms: Mapping[str, Tensor], factor: Tensor | None) -> None:
        """The balancer's part of a pass, of a loss that was multiplied by a factor."""
        trainer: Any = self
        balancer, scaler = self.balancer, trainer.accelerator.scaler
        place = trainer.state.global_step
        if self._passes.first(balancer, place):
            balancer.zero_grad()  # Trainer does so for the parameters of the model
        own = {id(parameter) for parameter in balancer.parameters()}
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        chosen = {name: one for name, one in model.named_parameters() if id(one) not in own}
        options = {
            "params": chosen,
            **self.balancer_options,
            "scaler": scaler,
            "factor": without_scale(factor, scaler),
        }
        self._passes.backward(balancer, terms, place, options)

    # ---- what Trainer logs, optimizes and saves

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in ``Trainer``; the figures of the terms go with the loss of the training."""
        if "loss" in logs and self.balance_step is not None and self.terms_prefix is not None:
            logs = {**logs, **self.balance_step.as_dict(self.terms_prefix)}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in ``Trainer``."""
        self._passes = Passes()
        return super().train(*args, **kwargs)  # type: ignore[misc]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As in ``Trainer``; learned parameters of the balancer are a group, without decay."""
        given = self.optimizer is not None  # type: ignore[attr-defined]
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        served = {id(one) for group in optimizer.param_groups for one in group["params"]}
        missing = [one for one in self.balancer.parameters() if id(one) not in served]
        if missing and given:
            raise ValueError(
                "`optimizers` must serve the parameters of the balancer, too: add "
                "balancer.parameters() to it"
            )
        if missing:
            optimizer.add_param_group({"params": missing, "weight_decay": 0.0})
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.args.should_save:  # type: ignore[attr-defined]
            torch.save(self.balancer.state_dict(), Path(output_dir) / FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        file = Path(checkpoint) / FILE
        if not file.exists():
            raise ValueError(
                f"the checkpoint {checkpoint} has no {FILE}: it was made without this balancer"
            )
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.balancer.load_state_dict(state)


def _counts(term: Term) -> bool:
    """Whether a term divides by the items of the whole batch."""
    try:
        return "num_items_in_batch" in inspect.signature(term).parameters
    except (TypeError, ValueError):  # a builtin
        return False


def _refuse_what_does_not_work(trainer: Any) -> None:
    refuse_what_does_not_work(trainer.accelerator)
    if trainer.args.n_gpu > 1:
        raise ValueError(
            "a balancer does not work with DataParallel, which Trainer takes for several GPUs in "
            "one process: start it with torchrun"
        )
    for name in ("_save_optimizer_and_scheduler", "_load_optimizer_and_scheduler"):
        if not hasattr(super(BalancedTerms, trainer), name):
            raise RuntimeError(
                f"this release of transformers has no Trainer.{name}, in which the state of the "
                "balancer joins a checkpoint"
            )


# ---- the training guard


def watch_callback(
    trainer: Any, loss: torch.nn.Module | None = None, *, prefix: str = "watch/", **options: Any
) -> Any:
    """Watch the training of a ``Trainer`` with :func:`lossproof.watch`, and log what it sees.

    The guard sees the model, what ``compute_loss_func`` returns, and of :class:`BalancedTerms` the
    terms and the norms of their gradients. It starts with ``trainer.train()`` and stops at its
    end, also where that raises.

    Args:
        trainer: a ``Trainer``. The callback is added to it, before those that report to trackers.
        loss: the loss, where it is a Module that the model calls.
        prefix: what the name of each logged figure begins with.
        **options: as for :func:`lossproof.watch`: ``on_alarm``, ``ring``, ``share``, ``memory``.

    Returns:
        The callback; its ``guard`` watches. With ``model_init`` each training has another one.

    Raises:
        ImportError: transformers is not installed.
        TypeError: ``trainer`` is no Trainer.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError(
            "transformers is not installed: pip install 'lossproof[transformers]'"
        ) from error
    from lossproof.watcher.guard import watch

    if not hasattr(trainer, "callback_handler"):
        raise TypeError(f"`trainer` must be a transformers.Trainer, got {type(trainer).__name__}")

    class Watch(TrainerCallback):
        """Starts and stops the guard."""

        def __init__(self) -> None:
            seen = "_computed" if isinstance(trainer, BalancedTerms) else "compute_loss_func"
            self.seen, self.original = seen, getattr(trainer, seen)
            self.watch_model()

        def watch_model(self) -> None:
            """Make the guard, for the model that the trainer has now."""
            self.model = trainer.model
            self.guard = watch(self.model, loss, **options)
            if self.original is not None:
                setattr(trainer, self.seen, self.guard.wrap(self.original))

        def on_train_begin(self, *others: Any, **kwargs: Any) -> None:
            if trainer.model is not self.model:  # `model_init` makes another one for each training
                self.watch_model()
            self.guard.start()

        def on_pre_optimizer_step(self, *others: Any, **kwargs: Any) -> None:
            step = getattr(trainer, "balance_step", None)
            if step is not None:
                self.guard.note_step(step)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if logs and "loss" in logs:
                figures = self.guard.as_dict(prefix)
                logs.update(figures)
                state.log_history[-1].update(figures)

    callback = Watch()
    train = trainer.train

    @functools.wraps(train)
    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return train(*args, **kwargs)
        finally:  # a training that raises calls no callback
            callback.guard.stop()

    trainer.train = watched
    trainer.callback_handler.callbacks.insert(0, callback)
    return callback
