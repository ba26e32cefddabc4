"""A balancer within a loop of Accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossproof.integrations._passes import Passes
from lossproof.integrations._stand_in import leaf, without_scale
from lossproof.terms.balance.base import Balancer

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep

__all__ = ["AcceleratedBalancer"]


class AcceleratedBalancer:
    """Fills the gradients of a set of terms where a loop calls ``accelerator.backward(loss)``.

    Gradient accumulation, the scale of half precision and ``no_sync`` are those of the
    accelerator. The weights are computed in the first micro-batch of an optimizer step, and held in
    the others, up to the one in which the accelerator synchronises the gradients. The balancer is
    registered with the accelerator, so that ``save_state`` and ``load_state`` know it.

    It does not work with DeepSpeed, FSDP, Megatron and XLA, and says so.

    Args:
        accelerator: an ``accelerate.Accelerator``.
        balancer: weighs the terms. Give its learned parameters, if it has some, to the optimizer.
        params: what is filled: the model, before or after ``accelerator.prepare``, or parameters.

    Raises:
        TypeError: ``accelerator`` is no Accelerator, or ``balancer`` no balancer.
        ValueError: the processes are distributed in a way in which a balancer does not work.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> from lossproof.integrations.accelerate import AcceleratedBalancer
        >>> from lossproof.terms import UPGrad
        >>> accelerator, model = Accelerator(cpu=True), torch.nn.Linear(3, 2)
        >>> model = accelerator.prepare(model)
        >>> balance = AcceleratedBalancer(accelerator, UPGrad(), model)
        >>> out = model(torch.ones(4, 3))
        >>> step = balance.backward({"a": out[:, 0].square().mean(), "b": out[:, 1].abs().mean()})
        >>> step.names, model.weight.grad is not None
        (('a', 'b'), True)
    """

    def __init__(self, accelerator: Any, balancer: Balancer, params: Any) -> None:
        if not hasattr(accelerator, "register_for_checkpointing"):
            raise TypeError(
                f"`accelerator` must be an accelerate.Accelerator, got {type(accelerator).__name__}"
            )
        if not isinstance(balancer, Balancer):
            raise TypeError(f"`balancer` must be a Balancer, got {type(balancer).__name__}")
        refuse_what_does_not_work(accelerator)
        accelerator.register_for_checkpointing(balancer.to(accelerator.device))
        self.accelerator = accelerator
        self.balancer = balancer
        self.params = params
        self._passes = Passes()
        self._window = 0
        self._at = 0

    @property
    def balance_step(self) -> BalanceStep | None:
        """The figures of the last step of the optimizer, for ``accelerator.log(step.as_dict())``.

        They are those of all processes, and the values of the terms the mean over its
        micro-batches.
        """
        return self._passes.step

    def backward(self, terms: Mapping[str, Any], **options: Any) -> BalanceStep:
        """Weigh the terms of a micro-batch, and add their gradient: see ``Balancer.backward``.

        Args:
            terms: what :meth:`lossproof.terms.Balancer.backward` takes, neither scaled nor divided.
            **options: as there: ``on``, ``clip_terms``, ``nonfinite`` and so on.

        Returns:
            What was done in this micro-batch.
        """
        total = leaf(terms, self.balancer)
        self.accelerator.backward(total)  # what it multiplies a loss by
        scaler = self.accelerator.scaler
        given = {
            "params": self.params,
            **options,
            "scaler": scaler,
            "factor": without_scale(total.grad, scaler),
        }
        step = self._passes.backward(self.balancer, terms, self._place(), given)
        self._window += bool(self.accelerator.sync_gradients)
        return step

    def _place(self) -> int:
        """Which optimizer step the micro-batch belongs to.

        The last micro-batch of a step, which synchronises, may have been left out by the loop; then
        the accelerator's own count tells, which is 0 in the last one of the data.
        """
        size = self.accelerator.gradient_accumulation_steps
        before, self._at = self._at, self.accelerator.step or self._at + 1
        if self._at < before or (self._at - 1) // size != (before - 1) // size:
            self._window += 1
        return self._window


def refuse_what_does_not_work(accelerator: Any) -> None:
    """Raise where the processes are not alone, nor under ``DistributedDataParallel``."""
    how = accelerator.distributed_type.name
    if how != "NO" and not how.startswith("MULTI_"):
        raise ValueError(
            f"a balancer does not work with {how} here, which sends the loss backward by itself or "
            "shards the parameters: use DistributedDataParallel"
        )
